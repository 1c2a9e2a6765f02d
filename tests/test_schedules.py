import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_direct_opt import estimators, schedules


def test_two_phase_changes_after_exactly_the_warmup():
    schedule = schedules.two_phase(1.0, 0.1, 500)
    values = [float(schedules.value(schedule, step)) for step in (0, 499, 500, 10**6)]
    np.testing.assert_allclose(values, [1.0, 1.0, 0.1, 0.1])
    assert schedules.two_phase(1.0, 0.1, 0) == 0.1


def test_floored_exponential_decay():
    schedule = schedules.FlooredExponentialDecay(initial=1.0, rate=1e-2, floor=0.1)
    got = [float(schedules.value(schedule, tf.constant(step, tf.int64))) for step in (0, 100, 999)]
    np.testing.assert_allclose(got, [1.0, np.exp(-1), 0.1], rtol=1e-6)


@pytest.mark.parametrize(
    "schedule",
    [
        0.5,
        schedules.two_phase(0.3, 0.1, 7),
        schedules.FlooredExponentialDecay(2.0, 0.1, 0.5),
        keras.optimizers.schedules.PolynomialDecay(1.0, 10, 0.1),
    ],
)
def test_config_round_trip(schedule):
    again = schedules.get(schedules.serialize(schedule), "epsilon")
    for step in (0, 3, 8, 20):
        assert float(schedules.value(again, step)) == float(schedules.value(schedule, step))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), schedules.two_phase(-1.0, 1.0, 5)])
def test_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match="Expected `epsilon` to be greater than 0; received"):
        schedules.get(value, "epsilon")


KERAS = keras.optimizers.schedules


@pytest.mark.parametrize(
    ("schedule", "step"),
    [
        (KERAS.PolynomialDecay(1.0, 7, 0.0), 7),
        (KERAS.PolynomialDecay(1.0, 7, -1.0), 7),
        (KERAS.CosineDecay(1.0, 5, warmup_steps=3, warmup_target=2.0), 8),
        (KERAS.PiecewiseConstantDecay([3, 9], [1.0, 0.5, 0.0]), 10),
    ],
)
def test_a_schedule_that_falls_to_zero_later_is_refused_when_it_is_given(schedule, step):
    with pytest.raises(ValueError, match=f"Expected `epsilon` to be greater than 0.* step {step}"):
        schedules.get(schedule, "epsilon")


@pytest.mark.parametrize(
    "schedule",
    [
        KERAS.ExponentialDecay(1.0, 10, 0.5),  # Rounds to 0 after 1,500 steps.
        KERAS.InverseTimeDecay(1.0, 10, 0.5),
        KERAS.CosineDecayRestarts(1.0, 10, alpha=0.1),
        KERAS.PolynomialDecay(1.0, 7, 0.1),
        schedules.FlooredExponentialDecay(),
    ],
)
def test_a_schedule_that_stays_above_zero_is_taken(schedule):
    assert schedules.get(schedule, "epsilon") is schedule


class Falling(KERAS.LearningRateSchedule):
    def __call__(self, step):
        return 1e6 - tf.cast(step, tf.float32)


def test_a_schedule_whose_fall_cannot_be_seen_raises_at_the_step_and_is_nan_under_xla():
    schedule = schedules.get(Falling(), "temperature")
    late = tf.constant(2_000_000)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected the schedule Falling to"):
        schedules.value(schedule, late)
    compiled = tf.function(lambda step: schedules.value(schedule, step), jit_compile=True)
    assert np.isnan(compiled(late))
    assert float(compiled(tf.constant(0))) == 1e6


@pytest.mark.parametrize("name", ["direct", "candidates", "gumbel_softmax", "reinmax"])
def test_under_xla_a_fallen_schedule_makes_the_loss_of_an_estimator_nan(name):
    key = "epsilon" if "epsilon" in estimators.arguments(name) else "temperature"
    estimator = estimators.get(name, seed=0, **{key: Falling()})
    step = tf.function(
        lambda now: estimator(
            tf.zeros([2, 3]),
            loss_fn=lambda codes: tf.reduce_sum(
                codes * tf.constant([1.0, 2.0, 3.0], shape=[1, 1, 1, 3]) * tf.ones([2, 1, 1, 1]),
                axis=[-1, -2],
            ),
            step=now,
            training=True,
        ),
        jit_compile=True,
    )
    assert np.all(np.isfinite(step(tf.constant(0))))
    assert np.all(np.isnan(step(tf.constant(2_000_000))))


def test_zero_is_allowed_where_asked_for_and_negative_is_not():
    assert schedules.get(0.0, "kl_weight", allow_zero=True) == 0.0
    with pytest.raises(ValueError, match=r"Expected `kl_weight` to be at least 0; received -0.5"):
        schedules.get(-0.5, "kl_weight", allow_zero=True)


def test_something_else_is_refused():
    with pytest.raises(ValueError, match="number or a keras LearningRateSchedule; received 'big'"):
        schedules.get("big", "epsilon")
