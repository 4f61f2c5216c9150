"""Fuzzers of all that reads bytes of others: ``python -m tests.fuzz``; see README.md."""

import sys
from pathlib import Path

# What the tests share is imported as the tests import it.
sys.path.insert(0, str(Path(__file__).parents[1]))
