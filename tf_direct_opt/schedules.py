"""Schedules of epsilon, beta and temperatures: Keras' own, and the two shapes it lacks.

A schedule is a positive number or a `keras.optimizers.schedules.LearningRateSchedule` of the
optimizer's iterations.
"""

import math
import numbers
import re
import typing

import keras
import numpy as np
import tensorflow as tf

from tf_direct_opt.perturbation import zero_if

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
        identifier: number, also one of NumPy, `LearningRateSchedule`, or what `serialize` returned.
        name: what the schedule is called in an error.
        allow_zero: whether 0 is in range (a weight) or not (a step or temperature).

    Raises:
        ValueError: not a schedule, or out of range at its first step, at its last one, or at one of
            a few between.
    """
    schedule = identifier
    if isinstance(identifier, dict):
        schedule = keras.saving.deserialize_keras_object(identifier)
    if isinstance(schedule, np.ndarray) and schedule.ndim == 0:
        schedule = schedule.item()
    if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        if not isinstance(schedule, numbers.Real) or isinstance(schedule, bool):
            raise ValueError(
                f"Expected `{name}` to be a number or a keras LearningRateSchedule; "
                f"received {identifier!r}. Please write a schedule for a value that changes."
            )
        return check_positive(schedule, name, allow_zero)
    with tf.init_scope():
        for step in _telling_steps(schedule):
            _check_range(float(schedule(tf.constant(step))), name, allow_zero, f" at step {step}")
    return schedule


def check_positive(number, name: str, allow_zero: bool = False) -> float:
    """The number itself if it is finite and positive, or also 0; ValueError otherwise."""
    if not isinstance(number, numbers.Real) or isinstance(number, bool):
        raise ValueError(f"Expected `{name}` to be a number; received {number!r}.")
    _check_range(number, name, allow_zero, "")
    return float(number)


def _check_range(number, name, allow_zero, where):
    range32 = np.finfo(np.float32)  # What is beyond becomes 0 or infinite.
    least = 0.0 if allow_zero else range32.tiny
    if not least <= number <= range32.max:
        bound = "at least 0" if allow_zero else "greater than 0"
        bound = "finite" if number > range32.max else bound
        cure = " Please let it end in range." if where not in ("", " at step 0") else ""
        raise ValueError(f"Expected `{name}` to be {bound}; received {number:g}{where}.{cure}")


def _telling_steps(schedule) -> list[int]:
    """The first step of a schedule, a few later ones, and its end where it says when that is."""
    given = vars(schedule)
    ends = [given.get(key) for key in ("decay_steps", "warmup_steps", "first_decay_steps")]
    known = [int(float(end)) for end in ends if isinstance(end, numbers.Real)]
    known += [int(boundary) + 1 for boundary in given.get("boundaries") or ()]
    # An exponential decay of Keras' rounds to 0 far beyond its `decay_steps`, and is in range.
    later = [sum(known)] if known else [10**power for power in range(6)]
    return sorted({0, *known, *later})


def serialize(schedule: Schedule):
    """A form of the schedule for `get_config`, which `get` reads back."""
    if isinstance(schedule, numbers.Real):
        return float(schedule)
    return keras.saving.serialize_keras_object(schedule)


def value(schedule: Schedule, step, allow_zero: bool = False) -> tf.Tensor:
    """The scalar float32 value of the schedule at a step.

    Raises:
        tf.errors.InvalidArgumentError: a schedule that leaves its range, above 0 or from 0 on, in
            eager and graph mode. XLA drops assertions, so there it is NaN, as the loss becomes.
    """
    if not callable(schedule):
        return tf.cast(schedule, tf.float32)
    now = tf.cast(schedule(tf.convert_to_tensor(step)), tf.float32)
    in_range = now >= 0.0 if allow_zero else now > 0.0
    message = (
        f"Expected the schedule {type(schedule).__name__} to stay "
        f"{'at 0 or above' if allow_zero else 'above 0'}; received a value below at this step. "
        "Please let it end in range"
    )
    return now + zero_if(in_range, message)


@keras.saving.register_keras_serializable("tf_direct_opt")
class FlipRate:
    """The epsilon at which a given share of the argmaxes flip: `epsilon="flip_rate=0.1"`.

    It follows the loss, whatever its scale, down to a step of 1e-6, and keeps the share of examples
    that send a gradient at all. It depends on the noise it is used with, which no closed form of
    the bias covers.

    Args:
        rate: share of the variables, number or schedule, above 0 and at most 1.
        over: "batch", one epsilon for all, or "example", one for each, by the share of its N
            variables.

    Raises:
        ValueError: a rate out of range, another `over`.

    References:
        The choice by sparsity is that of Minervini, Franceschi, Niepert, "Adaptive Perturbation-
        Based Gradient Estimation for Discrete Latent Variable Models", AAAI 2023.
    """

    def __init__(self, rate, over: str = "batch"):
        self.rate = get(rate, "rate")
        with tf.init_scope():
            steps = _telling_steps(self.rate) if callable(self.rate) else [0]
            greatest = max(float(value(self.rate, step)) for step in steps)
        if greatest > 1.0:
            raise ValueError(f"Expected a flip rate of at most 1; received {greatest:g}.")
        if over not in ("batch", "example"):
            raise ValueError(f"Expected `over` in ['batch', 'example']; received {over!r}.")
        self.over = over

    def __call__(
        self,
        critical: tf.Tensor,  # [B, N]
        step,
    ) -> tf.Tensor:
        """Epsilon [] or [B] from the critical ones.

        Where fewer can flip than are to, all that can do; where none can, it is 1.
        """
        if self.over == "batch":
            critical = tf.reshape(critical, [-1])
        ordered = tf.sort(critical, axis=-1)
        count = tf.cast(tf.shape(ordered)[-1], tf.float32)
        # A rate of 0.6 is a little more in float32, and its share of 25 not 16.
        wanted = value(self.rate, step) * count * (1.0 - 1e-6)
        wanted = tf.cast(tf.math.ceil(wanted), tf.int32)
        able = tf.reduce_sum(tf.cast(ordered < math.inf, tf.int32), axis=-1)
        ordered = tf.pad(
            ordered, [(0, 0)] * (ordered.shape.rank - 1) + [(0, 1)], constant_values=math.inf
        )
        index = tf.maximum(tf.minimum(wanted, able) - 1, 0)
        epsilon = tf.gather(ordered, index, axis=-1, batch_dims=ordered.shape.rank - 1)
        # A little beyond, where the argmax has moved; ties have the gap 0.
        return tf.where(able > 0, tf.maximum(1.0001 * epsilon, 1e-6), 1.0)

    def get_config(self):
        return {"rate": serialize(self.rate), "over": self.over}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def get_epsilon(epsilon) -> Schedule | FlipRate:
    """A number, a schedule or a `FlipRate`, also as "flip_rate=0.1" or as one was serialized."""
    if isinstance(epsilon, dict):
        epsilon = keras.saving.deserialize_keras_object(epsilon)
    if isinstance(epsilon, str):
        found = re.fullmatch(r"flip_rate=(\d*\.?\d+(?:e-?\d+)?)", epsilon)
        if not found:
            raise ValueError(
                f"Expected `epsilon` to be a number, a schedule or 'flip_rate=0.1'; received "
                f"{epsilon!r}. Please give one of them."
            )
        epsilon = FlipRate(float(found[1]))
    return epsilon if isinstance(epsilon, FlipRate) else get(epsilon, "epsilon")
