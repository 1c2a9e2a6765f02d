"""The joint law of z* and z*(eps) under one Gumbel noise, in closed form.

With z* = argmax{h + gamma}, z*(eps) = argmax{h + gamma - eps f}, a = softmax(h) and
b_k = a_k e^(-eps f_k), the pair (i, j), i != j, has the probability

    P(i, j) = a_i b_j int du / (S(u) + u T(u))^2    over  e^(eps f_j) <= u <= e^(eps f_i),

with S(u) the sum of a_k over e^(eps f_k) > u, and T(u) that of the other b_k: a flip goes to a
lower loss. Both are constant between neighbouring losses, so the integral is a finite sum. It says
what the direct estimator does at every eps without a draw: how often it flips, its bias, its
variance, and what is left of that once z* is given.
"""

import math
from typing import NamedTuple

import tensorflow as tf


def coupled_law(
    logits: tf.Tensor,  # [B, K]
    losses: tf.Tensor,  # [B, K]
    epsilon: tf.Tensor | float,  # [] or [B]
) -> tf.Tensor:
    """P(z* = i, z*(eps) = j), float64 [B, K, K], for steps toward better.

    The pair of steps away from worse has the law of the losses' negatives.

    Args:
        logits: h, unnormalised log-probabilities, nats.
        losses: f, nats.
        epsilon: step, in 1/nats, positive.

    Returns:
        Rows sum to softmax(h), columns to softmax(h - eps f).

    Example:
        >>> coupled_law(tf.zeros([1, 2]), tf.constant([[0.0, 1.0]]), 1.0).numpy().round(3)
        array([[[0.5  , 0.   ],
                [0.231, 0.269]]])
    """
    # By ascending loss; float64, as the terms of the sum differ by many orders of magnitude.
    order = tf.argsort(losses, axis=-1, stable=True)
    probs = tf.nn.softmax(tf.cast(tf.gather(logits, order, batch_dims=1), tf.float64))
    losses = tf.cast(tf.gather(losses, order, batch_dims=1), tf.float64)
    epsilon = tf.reshape(tf.cast(epsilon, tf.float64), [-1, 1])
    # 1 / u at the breaks, from 1 downwards; those before the first that can be drawn are as good.
    lowest = tf.where(probs > 0.0, losses, tf.constant(math.inf, tf.float64))
    lowest = tf.reduce_min(lowest, axis=-1, keepdims=True)
    tilt = tf.exp(-epsilon * tf.nn.relu(losses - lowest))
    tilted = probs * tilt
    # Between break m and m + 1: S without, T with the m lowest losses.
    above = tf.cumsum(probs, axis=-1, exclusive=True, reverse=True)[:, :-1]
    below = tf.cumsum(tilted, axis=-1)[:, :-1]
    near, far = tilt[:, :-1], tilt[:, 1:]
    area = (near - far) / ((above * near + below) * (above * far + below))
    # Sums of areas from j to i, not differences of one running sum, which would cancel.
    size = logits.shape[-1]
    between = tf.linalg.band_part(tf.ones([size, size - 1], tf.float64), 0, -1)
    between = tf.cumsum(between * area[:, tf.newaxis], axis=-1)  # [B, j, i - 1]
    flips = tf.pad(tf.transpose(between, [0, 2, 1]), [[0, 0], [1, 0], [0, 0]])
    flips *= probs[..., tf.newaxis] * tilted[:, tf.newaxis]
    law = tf.linalg.set_diag(flips, tf.nn.relu(probs - tf.reduce_sum(flips, axis=-1)))
    place = tf.argsort(order, axis=-1)
    law = tf.gather(law, place, axis=1, batch_dims=1)
    return tf.gather(law, place, axis=2, batch_dims=1)


class Moments(NamedTuple):
    """Of the epsilon-difference (z* - z*(eps)) / eps."""

    flip_probability: tf.Tensor
    """P(z*(eps) != z*): [B]."""
    mean: tf.Tensor
    """(softmax(h) - softmax(h - eps f)) / eps: [B, K]."""
    variance: tf.Tensor
    """Trace of its covariance: [B]."""
    variance_given_code: tf.Tensor
    """The same of its mean given z*: [B]."""


def difference_moments(
    law: tf.Tensor,  # [B, K, K]
    epsilon: tf.Tensor | float,  # [] or [B]
) -> Moments:
    """Mean and variance of the epsilon-difference under the joint law, without a draw."""
    epsilon = tf.reshape(tf.cast(epsilon, law.dtype), [-1])
    code, moved = tf.reduce_sum(law, axis=2), tf.reduce_sum(law, axis=1)
    flips = 1.0 - tf.linalg.trace(law)
    mean = (code - moved) / epsilon[:, tf.newaxis]
    given = mean_given_code(law)
    squares = tf.reduce_sum((tf.eye(law.shape[-1], dtype=law.dtype) - given) ** 2, axis=-1)
    square_of_mean = tf.reduce_sum(mean**2, axis=-1)
    return Moments(
        flips,
        mean,
        2.0 * flips / epsilon**2 - square_of_mean,
        tf.reduce_sum(code * squares, axis=-1) / epsilon**2 - square_of_mean,
    )


def mean_given_code(
    law: tf.Tensor,  # [B, K, K]
) -> tf.Tensor:
    """E[z*(eps) | z* = i] in row i: [B, K, K]. With it a direct gradient needs no second argmax."""
    return tf.math.divide_no_nan(law, tf.reduce_sum(law, axis=2, keepdims=True))
