"""All bombs."""

from bombs import contents, streams, tars, zips  # noqa: F401  # they register theirs
from bombs.bomb import BASE, BOMBS, Bomb

__all__ = ["BASE", "BOMBS", "Bomb"]
