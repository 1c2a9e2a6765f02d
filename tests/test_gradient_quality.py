"""The table of gradient quality: its figures by hand, and what enumeration says of them."""

import csv

import numpy as np
import pytest
import tensorflow as tf
from evaluations import gradient_quality
from programs import run

PROGRAM = "experiments/gradient_quality.py"


def test_quality_of_known_draws():
    # 40000 normal draws of 3 entries: bias (0.3, 0, 0) on an exact gradient of length 2, deviation
    # sqrt(3) * 0.5. Bias within 4 standard errors of 0.0025 / 2.
    generator = np.random.default_rng(0)
    exact = np.array([2.0, 0.0, 0.0])
    samples = exact + [0.3, 0.0, 0.0] + 0.5 * generator.normal(size=[40_000, 3])
    row = gradient_quality(samples, exact)
    assert row["bias"] == pytest.approx(0.15, abs=0.005)
    assert row["deviation"] == pytest.approx(np.sqrt(3) * 0.25, rel=0.01)
    assert row["bias_error"] == pytest.approx(np.sqrt(3) * 0.25 / 200, rel=0.01)
    assert 0.9 < row["cosine"] < 1.0
    assert row["deviation_to_mean"] == pytest.approx(np.sqrt(3) * 0.5 / 2.3, rel=0.01)
    assert row["cosine_of_mean"] == pytest.approx(1.0, abs=1e-4)
    turned = gradient_quality(np.stack([[0.0, 3.0, 0.0]] * 2), exact)
    assert turned["cosine"] == turned["cosine_of_mean"] == 0.0
    assert gradient_quality(np.stack([2 * exact] * 2), exact)["cosine"] == 1.0


def table(folder, draws, estimators):
    code, _, err = run(
        PROGRAM, "--k=2", "--num_variables=3", f"--draws={draws}", "--epochs=2",
        f"--estimators={estimators}", "--hidden_units=16", "--verbose=0", f"--output_dir={folder}",
    )  # fmt: skip
    assert code == 0, err
    with (folder / "gradient_quality.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_unbiased(row):
    """`bias` is what exceeds the expected error of a mean of as many draws."""
    assert float(row["bias"]) < 2 * float(row["bias_error"]) + 1e-3, row


def test_table_and_picture(tmp_path):
    rows = table(tmp_path, 30, "disarm")
    assert [(row["model"], row["estimator"]) for row in rows] == [
        ("untrained", "disarm"), ("trained", "disarm"),
    ]  # fmt: skip
    for row in rows:
        assert_unbiased(row)
        assert row["decoder_evaluations"] == "2"
    picture = tf.io.decode_png((tmp_path / "gradient_quality.png").read_bytes()).numpy()
    assert picture.std() > 10


@pytest.mark.slow
def test_unbiased_estimators_are_unbiased_and_biased_ones_are_not(tmp_path):
    unbiased = ("local_expectation", "score_function", "disarm", "rebar", "relax")
    rows = table(tmp_path, 200, ",".join([*unbiased, "gumbel_softmax"]))
    assert {row["estimator"] for row in rows} == {*unbiased, "gumbel_softmax"}
    for row in rows:
        if row["estimator"] in unbiased:
            assert_unbiased(row)
    for stage in ("untrained", "trained"):
        by = {(row["estimator"], row["setting"]): row for row in rows if row["model"] == stage}
        row = by["gumbel_softmax", "temperature=3"]
        assert float(row["bias"]) > 3 * float(row["bias_error"]), row
        # Four times the samples: half the deviation.
        few, many = (by["score_function", f"num_samples={n}"] for n in (4, 16))
        assert float(few["deviation"]) > 1.5 * float(many["deviation"])
