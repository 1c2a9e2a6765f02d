import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_direct_opt import schedules


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


def test_zero_is_allowed_where_asked_for_and_negative_is_not():
    assert schedules.get(0.0, "kl_weight", allow_zero=True) == 0.0
    with pytest.raises(ValueError, match=r"Expected `kl_weight` to be at least 0; received -0.5"):
        schedules.get(-0.5, "kl_weight", allow_zero=True)


def test_something_else_is_refused():
    with pytest.raises(ValueError, match="number or a keras LearningRateSchedule; received 'big'"):
        schedules.get("big", "epsilon")
