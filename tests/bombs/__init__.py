"""Bombs: small files that ask for much, by their kind; each is made by a function of a number.

What holds for all of them: the memory that reading one takes is bounded by `BASE` and a factor of the bytes of the
file; the time grows with the bytes that are there, and those that they decode to; what is refused is an `ArchiveError`.
``python -m tests.bombs`` makes them large, and has zipfile, tarfile and libarchive read them, too; `test_bombs.py` has
small ones.
"""
