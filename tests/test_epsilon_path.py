import csv

import keras
import numpy as np
import oracles
import programs
import pytest
import tensorflow as tf

from tf_direct_opt import direct, epsilon_path, estimators, schedules, solvers

B, N, K = 200, 4, 5


def problem(seed=0):
    """Scores, the code they choose and a loss table, [B, N, K] each."""
    scores, table = tf.random.stateless_normal([2, B, N, K], [seed, 2])
    return scores, solvers.Categorical()(scores), 3.0 * table


def flipped(scores, code, table, epsilon, difference):
    """Which variables move, [B, N], at an epsilon of their own, [B, N, 1]."""
    steps = {"toward_better": [-1], "away_from_worse": [1], "central": [-1, 1]}[difference]
    moved = [solvers.Categorical()(scores + sign * epsilon * table) != code for sign in steps]
    return np.any(np.logical_or.reduce(moved), axis=-1)


@pytest.mark.parametrize("difference", direct.DIFFERENCES)
def test_a_variable_flips_beyond_its_critical_epsilon_and_not_below(difference):
    scores, code, table = problem()
    critical = epsilon_path.critical_epsilon(scores, code, table, difference)[..., tf.newaxis]
    finite = np.isfinite(critical[..., 0])
    assert 0.5 < finite.mean() <= 1.0
    just = tf.where(critical < np.inf, critical, 1e6)
    np.testing.assert_array_equal(flipped(scores, code, table, 1.001 * just, difference), finite)
    assert not flipped(scores, code, table, 0.999 * just, difference).any()


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_as_many_of_a_batch_flip_as_are_wanted(rate):
    scores, code, table = problem()
    critical = epsilon_path.critical_epsilon(scores, code, table)
    epsilon = schedules.FlipRate(rate)(critical, 0)
    assert epsilon.shape == ()
    assert flipped(scores, code, table, epsilon, "toward_better").sum() == rate * B * N


def test_as_many_of_an_example_flip_as_are_wanted_or_can():
    scores, code, table = problem()
    critical = epsilon_path.critical_epsilon(scores, code, table)
    epsilon = schedules.FlipRate(0.6, over="example")(critical, 0)  # 2.4 of 4 are 3.
    moved = flipped(scores, code, table, epsilon[:, tf.newaxis, tf.newaxis], "toward_better")
    able = np.isfinite(critical).sum(axis=1)
    np.testing.assert_array_equal(moved.sum(axis=1), np.minimum(able, 3))


def test_where_nothing_can_flip_epsilon_is_1_and_no_gradient_comes():
    for batch in (0, 3):
        scores = tf.random.stateless_normal([batch, N, K], [1, 2])
        code = solvers.Categorical()(scores)
        critical = epsilon_path.critical_epsilon(scores, code, tf.ones_like(scores))
        for over in ("batch", "example"):
            epsilon = schedules.FlipRate(0.1, over)(critical, 0)
            np.testing.assert_array_equal(epsilon, np.ones(epsilon.shape))


@pytest.mark.parametrize("over", ["batch", "example"])
def test_the_estimator_reports_the_rate_and_is_saved(over):
    rate = schedules.FlipRate(schedules.two_phase(1.0, 0.25, 1), over)
    estimator = estimators.get("direct", epsilon=rate, seed=1)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(estimator))
    assert again.get_config() == estimator.get_config()
    logits = tf.Variable(tf.zeros([B, 1, K]))
    table = tf.random.stateless_normal([B, K], [3, 4])

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = again(
                logits, loss_fn=lambda z: tf.einsum("smnk,bk->bm", z, table), step=1, training=True
            )
        return tape.gradient(loss, logits)

    slope = step().numpy()
    able = 1.0 if over == "example" else 0.25  # One variable: of its own all or none.
    assert np.any(slope, axis=(1, 2)).mean() == pytest.approx(able, abs=0.25 * (over == "example"))
    reported = float(again.report.result()["flip_rate"])
    assert reported == pytest.approx(np.any(slope, axis=(1, 2)).mean(), rel=1e-6)


def test_a_string_is_a_flip_rate():
    assert estimators.Direct(epsilon="flip_rate=0.2").epsilon.rate == 0.2
    for bad, message in (
        ("flip_rate=0", "Expected `rate` to be greater than 0"),
        ("flip_rate=1.5", "Expected a flip rate of at most 1"),
        ("adaptive", "Expected `epsilon` to be a number"),
        ("flip_rate=", "Expected `epsilon` to be a number"),
    ):
        with pytest.raises(ValueError, match=message):
            estimators.Direct(epsilon=bad)
    with pytest.raises(ValueError, match="Expected a flip rate of at most 1; received 2"):
        schedules.FlipRate(schedules.two_phase(0.5, 2.0, 10))
    with pytest.raises(ValueError, match="Expected `over` in"):
        schedules.FlipRate(0.1, "row")
    with pytest.raises(ValueError, match="Expected a number or a schedule for `epsilon` with"):
        estimators.Direct(epsilon="flip_rate=0.2", num_flipped=2)


@pytest.mark.parametrize(("difference", "order"), [("toward_better", 2), ("central", 4)])
def test_two_steps_cancel_the_leading_term_of_the_bias(difference, order, monkeypatch):
    # Of the means in closed form: what the noise leaves.
    h, f = np.random.default_rng(0).normal(size=[2, K])

    def mean(h, _, f, epsilon, __, difference):
        return oracles.direct_gradient(h, f, epsilon, difference)

    def bias(rule, epsilon):
        return np.linalg.norm(
            rule(h, None, f, epsilon, None, difference) - oracles.true_gradient(h, f)
        )

    monkeypatch.setattr(epsilon_path, "epsilon_difference", mean)
    whole, half = (bias(epsilon_path.richardson_difference, epsilon) for epsilon in (0.4, 0.2))
    assert whole < bias(mean, 0.4)
    assert 2 ** (order - 0.5) < whole / half < 2 ** (order + 0.5)


def test_the_program_measures_what_it_predicts(tmp_path):
    # Three figures of 9 rows within 4 standard errors of the draws, deviations within 10 %.
    said = programs.train(
        "experiments/epsilon_bias.py", "--k=4", "--draws=20000", f"--output_dir={tmp_path}"
    )
    with (tmp_path / "epsilon_bias.csv").open(newline="") as file:
        rows = [
            {name: float(figure) for name, figure in row.items()} for row in csv.DictReader(file)
        ]
    for row in rows:
        assert abs(row["measured_bias"] - row["bias"]) < 4 * row["measured_bias_error"]
        assert row["measured_deviation"] == pytest.approx(row["deviation"], rel=0.1)
    assert (tmp_path / "epsilon_bias.png").stat().st_size > 10_000
    assert said["best_epsilon"] > said["best_epsilon_of_1000_draws"]
