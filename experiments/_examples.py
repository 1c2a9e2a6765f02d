"""Puts examples/, whose programs the experiments run, where Python looks for modules."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))
