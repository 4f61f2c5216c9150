"""Run a target under atheris: ``python -m fuzz.atheris_entry TARGET [options of libFuzzer]``."""

from __future__ import annotations

import random
import sys

import atheris


def main() -> None:
    """Instrument the package as it is imported, and run."""
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["archivestream"]):
        import archivestream  # noqa: F401
        from fuzz.targets import TARGETS
    target = TARGETS[name]

    def change(data: bytes, most: int, seed: int) -> bytes:
        return target.mutate(data, most, random.Random(seed), atheris.Mutate)

    atheris.Setup(sys.argv, target.run, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
