"""The factor between an upstream gradient and that of the loss of one example.

The gradient that reaches an argmax carries the reduction over the batch, weights, the number of
replicas and a loss scale of mixed precision. `direct.direct_argmax` has to know that factor, or to
take a step that does not depend on it.
"""

import math
import numbers

import numpy as np
import tensorflow as tf

from tf_direct_opt.solvers.categorical import Categorical
from tf_direct_opt.types import Solver

RELATIVE = "relative"

REACH = 30.0
"""Nats below the best: a category there is drawn once in 10^13 times."""


def check(loss_scale) -> None:
    """ValueError unless it is "relative", None, a positive number or a tensor."""
    known = loss_scale is None or tf.is_tensor(loss_scale) or isinstance(loss_scale, np.ndarray)
    range32 = np.finfo(np.float32)
    is_number = isinstance(loss_scale, numbers.Real)
    positive = is_number and range32.tiny <= float(loss_scale) <= range32.max
    if not (known or positive or (isinstance(loss_scale, str) and loss_scale == RELATIVE)):
        raise ValueError(
            f"Expected a positive `loss_scale`, {RELATIVE!r} or None; received {loss_scale!r}."
        )


def positive(loss_scale) -> tf.Tensor:
    """The factor, float32 [] or [B]; refused, or NaN where XLA drops assertions, where <= 0."""
    scale = tf.convert_to_tensor(loss_scale, tf.float32)
    if isinstance(loss_scale, numbers.Real):  # `check` has looked at it.
        return scale
    right = (scale > 0.0) & (scale < math.inf)
    return tf.debugging.check_numerics(
        tf.where(right, scale, math.nan), "Expected a positive, finite `loss_scale`"
    )


def measured(
    probe_upstream: tf.Tensor,  # []
) -> tf.Tensor:
    """The factor on the training loss; refuses a probe that has no part in it."""
    known = tf.get_static_value(probe_upstream)
    if known is not None and not known:
        raise ValueError(_NO_PROBE)
    zero = tf.where(probe_upstream == 0.0, math.nan, 0.0)
    return probe_upstream + tf.debugging.check_numerics(zero, _NO_PROBE)


_NO_PROBE = (
    "Expected a loss of zero, by which the factor on the loss is measured, in the training loss; "
    "received a loss without it. Add sum(model.losses) to the loss after every call of the model "
    'in a custom loop (the next call clears them), or give `loss_scale`: a number, or "relative", '
    "which needs no factor."
)


def within_reach(
    scores: tf.Tensor,  # [..., K]
) -> tf.Tensor:
    """The scores, those of excluded categories, far below the best, as of ones that just are.

    A logit of -1e9 would be all of the length that a relative step is measured by.
    """
    return tf.maximum(scores, tf.reduce_max(scores, axis=-1, keepdims=True) - REACH)


def relative(
    upstream: tf.Tensor,  # [B, *event]
    scores: tf.Tensor,  # [B, *event]
    solver: Solver,
) -> tf.Tensor:
    """|upstream| / |scores|, one for each example, or variable of a categorical solver.

    Raises:
        ValueError: two categories, whose scores about their mean are as long as their gap: below
            an epsilon of 1 none would ever be crossed.
    """
    axes = list(range(1, scores.shape.rank))
    if isinstance(solver, Categorical):
        if scores.shape[-1] == 2:
            raise ValueError(
                f"Expected at least 3 categories with loss_scale={RELATIVE!r}, as the length of "
                "the scores of 2 is their gap; received 2. Please leave `loss_scale` out, or give "
                "the factor on the loss."
            )
        axes, scores = [-1], within_reach(scores)
        upstream, scores = (x - tf.reduce_mean(x, -1, keepdims=True) for x in (upstream, scores))

    def length(values):  # Divided by the largest entry first: squares of 1e-30 underflow.
        largest = tf.reduce_max(tf.abs(values), axes, keepdims=True)
        share = tf.math.divide_no_nan(values, largest)
        return largest * tf.sqrt(tf.reduce_sum(share**2, axes, keepdims=True))

    lengths = length(scores)
    return length(upstream) / tf.where(lengths > 0.0, lengths, 1.0)
