"""Schedules of epsilon, beta and temperatures: Keras' own, and the two shapes it lacks.

A schedule is a positive number or a `keras.optimizers.schedules.LearningRateSchedule` of the
optimizer's iterations.
"""

import numbers
import typing

import keras
import tensorflow as tf

Schedule: typing.TypeAlias = float | keras.optimizers.schedules.LearningRateSchedule


def two_phase(first: float, second: float, warmup_steps: int):
    """`first` for exactly `warmup_steps` steps, then `second`: the schedule that trains well.

    A large epsilon with the KL switched off breaks the symmetry of the codes; a small epsilon
    with the KL switched on then trains the true bound. A large epsilon bounds the gradient by
    1/epsilon, so that with the KL on from the start it loses to it and the model collapses.
    """
    if warmup_steps < 1:
        return second
    # PiecewiseConstantDecay keeps a value up to and including its boundary; steps count from 0.
    return keras.optimizers.schedules.PiecewiseConstantDecay([warmup_steps - 1], [first, second])


@keras.saving.register_keras_serializable("tf_direct_opt")
class FlooredExponentialDecay(keras.optimizers.schedules.LearningRateSchedule):
    """max(floor, initial * exp(-rate * step)): the schedule of the paper's experiments.

    Args:
        initial: value at step 0.
        rate: decay a step.
        floor: value it never falls below.
    """

    def __init__(self, initial: float = 1.0, rate: float = 1e-5, floor: float = 0.1):
        self.initial = initial
        self.rate = rate
        self.floor = floor

    def __call__(self, step):
        return tf.maximum(self.floor, self.initial * tf.exp(-self.rate * tf.cast(step, tf.float32)))

    def get_config(self):
        return {"initial": self.initial, "rate": self.rate, "floor": self.floor}


def get(identifier, name: str, allow_zero: bool = False) -> Schedule:
    """A checked schedule from a number, a schedule or the config of one.

    Args:
        identifier: number, `LearningRateSchedule` or what `serialize` returned.
        name: what the schedule is called in an error.
        allow_zero: whether 0 is in range (a weight) or not (a step or temperature).

    Raises:
        ValueError: not a schedule, or out of range at step 0.
    """
    schedule = identifier
    if isinstance(identifier, dict):
        schedule = keras.saving.deserialize_keras_object(identifier)
    if not isinstance(schedule, numbers.Real | keras.optimizers.schedules.LearningRateSchedule):
        raise ValueError(
            f"Expected `{name}` to be a number or a keras LearningRateSchedule; "
            f"received {identifier!r}."
        )
    with tf.init_scope():
        start = float(value(schedule, 0))
    if not (start > 0 or (allow_zero and start == 0)):
        bound = "at least 0" if allow_zero else "greater than 0"
        raise ValueError(f"Expected `{name}` to be {bound}; received {start:g} at step 0.")
    return schedule


def serialize(schedule: Schedule):
    """A form of the schedule for `get_config`, which `get` reads back."""
    if isinstance(schedule, numbers.Real):
        return float(schedule)
    return keras.saving.serialize_keras_object(schedule)


def value(schedule: Schedule, step) -> tf.Tensor:
    """The scalar float32 value of the schedule at a step."""
    if callable(schedule):
        schedule = schedule(tf.convert_to_tensor(step))
    return tf.cast(schedule, tf.float32)
