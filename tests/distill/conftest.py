"""Tiny generators are those of the tests of `gen`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "gen"))
