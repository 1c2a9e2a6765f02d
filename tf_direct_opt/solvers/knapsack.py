"""The knapsack: items of known weights under a capacity, by dynamic programming."""

import math

import numpy as np
import tensorflow as tf

from tf_direct_opt.checks import check_count
from tf_direct_opt.solvers.base import check_scores


class Knapsack:
    """argmax over z in {0, 1}^n with sum_i w_i z_i <= capacity of sum_i h_i z_i.

    Scores, the values of the items, and code [B, n]. Ties go to the lowest z, 0 before 1. Scores
    may have any sign. O(n C) an example, TensorFlow, with C the capacity, or the sum of the weights
    where that is less, over the greatest common divisor of the weights. (`MILP` takes several
    capacities and weights that are not integers.)

    Args:
        weights: n integers of at least 0.
        capacity: integer of at least 0.

    Raises:
        ValueError: weights or capacity that are no such integers; scores of another shape.
        tf.errors.InvalidArgumentError: scores that are not finite.

    Example:
        >>> Knapsack([3, 4, 5], capacity=7)(tf.constant([[1.0, 2.0, 2.5]])).numpy()
        array([[1., 1., 0.]], dtype=float32)

    References:
        Bellman, "Dynamic Programming", 1957.
    """

    supports_jit = True

    def __init__(self, weights, capacity: int):
        weights = np.asarray(weights)
        integers = weights.ndim == 1 and np.issubdtype(weights.dtype, np.integer)
        if not integers or not weights.size or weights.min() < 0:
            raise ValueError(
                "Expected `weights` to be a list of integers of at least 0; received "
                f"{weights.tolist()!r}. Give them, and the capacity, in a smaller unit."
            )
        self.weights = weights.tolist()
        self.capacity = check_count(capacity, "capacity", 0)

    def __call__(
        self,
        scores: tf.Tensor,  # [B, n]
    ) -> tf.Tensor:
        scores = check_scores(scores, (len(self.weights),), "Knapsack")
        unit = math.gcd(*self.weights) or 1
        capacity = min(self.capacity, sum(self.weights)) // unit
        # One more than the capacity is as good as any weight above it, and fits an int32.
        weights = [min(weight // unit, capacity + 1) for weight in self.weights]

        # Values of the items from i on, [B, C + 1] over the capacity that is left; then the
        # choices forwards, so that the first item that may be left out is.
        values = tf.zeros([tf.shape(scores)[0], capacity + 1], scores.dtype)
        takes = []
        for item in reversed(range(len(weights))):
            without = tf.pad(values, [(0, 0), (weights[item], 0)], constant_values=-math.inf)
            taken = scores[:, item, tf.newaxis] + without[:, : capacity + 1]
            takes.append(taken > values)
            values = tf.maximum(values, taken)
        left = tf.fill([tf.shape(scores)[0]], capacity)
        code = []
        for weight, take in zip(weights, reversed(takes), strict=True):
            code.append(tf.gather(take, left, batch_dims=1))
            left -= tf.where(code[-1], weight, 0)
        return tf.cast(tf.stack(code, axis=1), scores.dtype)

    def get_config(self) -> dict:
        return {"weights": self.weights, "capacity": self.capacity}
