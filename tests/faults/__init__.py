"""Faults at every call: of the disk, of memory, of the process itself. `python -m tests.faults` tries them all."""
