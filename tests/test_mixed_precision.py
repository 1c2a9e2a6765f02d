"""Half precision costs no nats that seeds do not, whatever the model and the likelihood."""

import csv

import pytest
from programs import run


@pytest.mark.slow
@pytest.mark.parametrize("model", ["discrete", "structured", "mixture"])
def test_half_precision_is_within_twice_the_spread_of_three_seeds(model):
    # Means of three seeds whose trainings part: one of ten differs by more than the spread alone.
    code, out, err = run("benchmarks/mixed_precision.py", f"--models={model}")
    assert code == 0, err
    rows = list(csv.DictReader(out.splitlines()))
    assert len(rows) == 4
    for row in rows:
        spread = float(row["float32_greatest"]) - float(row["float32_least"])
        for policy in ("mixed_float16", "mixed_bfloat16"):
            assert abs(float(row[policy]) - float(row["float32_mean"])) <= 2 * spread, row
