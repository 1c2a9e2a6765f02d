"""What is said about the package in several places is said alike."""

import pathlib
import re

import pytest

import tf_direct_opt as tdo

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("CITATION.cff", r"^version: (.+)$"), ("MODULE.bazel", r'^    version = "(.+)",$')],
)
def test_one_version(name, pattern):
    assert re.findall(pattern, (ROOT / name).read_text(), re.MULTILINE) == [tdo.__version__]
