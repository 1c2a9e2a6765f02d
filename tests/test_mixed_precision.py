"""Half precision costs no nats, whatever the model and the likelihood."""

import csv

import pytest
from programs import run


@pytest.mark.slow
@pytest.mark.parametrize("model", ["discrete", "structured", "mixture"])
def test_half_precision_is_within_the_spread_of_three_seeds(model):
    code, out, err = run("benchmarks/mixed_precision.py", f"--models={model}")
    assert code == 0, err
    rows = list(csv.DictReader(out.splitlines()))
    assert len(rows) == 4
    for row in rows:
        assert row["within_spread"] == "True", row
