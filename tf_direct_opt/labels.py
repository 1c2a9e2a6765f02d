"""Labels as a perturbation: direct loss minimisation of a task loss of the code.

A labelled example knows what its code should have been. With the task loss l(z, y), `cost` for
a wrong class and 0 for the right one, the direct gradient of E[l(z*, y)] is

    (z* - z*(eps)) / eps,    z*(eps) = argmax{h + gamma - eps l(., y)},

whose mean is (softmax(h) - softmax(h - eps l(., y))) / eps. An ever larger cost gives the paper's
limit, z*(eps) := y: its mean, (softmax(h) - y) / eps, is the gradient of the cross-entropy, 1 / eps
times.
"""

import math
import numbers

import tensorflow as tf

from tf_direct_opt.direct import checked_epsilon, loss_with_difference, require_shapes
from tf_direct_opt.perturbation import perturbed_argmax
from tf_direct_opt.solvers import Categorical

# What the label gains in the limit, in nats of the scores. Logits never differ by as much,
# and float32 still tells scores of this size apart by 1e-3.
_DECISIVE = 1e4


def direct_label_loss(
    logits: tf.Tensor,  # [B, K]
    noise: tf.Tensor,  # [B, K]
    labels: tf.Tensor,  # [B] int
    epsilon: tf.Tensor | float,  # [] or [B]
    cost: float | None = None,
) -> tf.Tensor:
    """The task loss at the perturbed argmax, with the direct gradient towards the logits.

    Args:
        logits: unnormalised log-probabilities of K classes, nats.
        noise: zero-mean Gumbel noise.
        labels: 0 to K - 1, or -1 for an example without a label, which has no loss and no gradient.
        epsilon: step, in 1/nats.
        cost: task loss of a wrong class, nats; None for the limit z*(eps) := y, whose loss
            counts errors, 1 each.

    Returns:
        float32 [B].

    Raises:
        ValueError: a cost that is not positive.
        ValueError, tf.errors.InvalidArgumentError: as `direct.direct_loss`.

    Example:
        >>> logits = tf.Variable([[2.0, 0.0]])
        >>> with tf.GradientTape() as tape:
        ...     loss = direct_label_loss(logits, tf.zeros([1, 2]), tf.constant([1]), epsilon=0.5)
        >>> tape.gradient(loss, logits).numpy()
        array([[ 2., -2.]], dtype=float32)

    References:
        Lorberbom et al., NeurIPS 2019, arXiv:1806.02867, section 4.3; McAllester, Hazan, Keshet,
        "Direct Loss Minimization for Structured Prediction", NeurIPS 2010.
    """
    if cost is not None and not (isinstance(cost, numbers.Real) and cost > 0):
        raise ValueError(f"Expected a positive `cost` of a wrong class, in nats; received {cost}.")
    epsilon = checked_epsilon(epsilon)
    labels, in_range = checked_labels(labels, logits.shape[-1])
    if len(logits.shape) != 2:
        raise ValueError(
            f"Expected logits [B, K] beside labels [B]; received shape {tuple(logits.shape)}."
        )
    if not labels.shape.is_compatible_with(logits.shape[:1]):
        raise ValueError(
            f"Expected labels of the {logits.shape[0]} logits, one each; received shape "
            f"{labels.shape}."
        )
    require_shapes(logits, noise=noise)
    solver = Categorical()
    # -1 has a row of zeros here: nothing to gain anywhere, and z*(eps) stays where z* is.
    right = tf.one_hot(labels, logits.shape[-1])
    scores, code = perturbed_argmax(logits, noise, solver)
    wrong = tf.reduce_sum(right, axis=-1) - tf.reduce_sum(right * code, axis=-1)
    if cost is None:
        loss, gain = wrong, _DECISIVE / epsilon
    else:
        loss, gain = cost * wrong, cost
    # Up to a constant of each example the task loss is what its label saves.
    table = -tf.reshape(tf.convert_to_tensor(gain, tf.float32), [-1, 1]) * right
    loss, _ = loss_with_difference(loss, logits, scores, code, table, epsilon, solver)
    return tf.where(in_range, loss, math.nan)


def flat_if_unknown(values: tf.Tensor, name: str) -> tf.Tensor:
    """Values [B] or [B, 1]; those of unknown rank, as of several calls of a traced step, as [B]."""
    if values.shape.rank is not None:
        return values
    message = f"Expected `{name}` [B] or [B, 1], one an example"
    one = tf.debugging.assert_equal(tf.size(values), tf.shape(values)[0], message)
    with tf.control_dependencies([one]):
        return tf.reshape(values, [-1])


def checked_labels(
    labels: tf.Tensor,  # [B] or [B, 1] int
    num_categories: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Labels, int32 [B], and whether each is in range, -1 (none) to K - 1, bool [B].

    Those that are not are -1. In eager and graph mode they raise; XLA drops assertions, so there
    the second result is what is left to say it with.

    Raises:
        ValueError: labels that are no integers: a cast would make class 0 of NaN, and some class
            of a probability; or of another shape, such as one-hots.
        tf.errors.InvalidArgumentError: labels out of range, before any cast.
    """
    labels = flat_if_unknown(tf.convert_to_tensor(labels), "labels")
    # What is beyond int64 would be another label after the cast.
    if not labels.dtype.is_integer or labels.dtype == tf.uint64:
        raise ValueError(
            f"Expected integer labels, -1 for none; received the dtype {labels.dtype.name}. Please "
            "take the argmax of one-hots or probabilities, and -1 for a missing label."
        )
    if labels.shape.rank == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape.rank != 1:
        raise ValueError(
            "Expected labels [B] or [B, 1], a class of each example; received shape "
            f"{labels.shape}. Please take the argmax of one-hots."
        )
    wide = tf.cast(labels, tf.int64)
    in_range = (wide >= -1) & (wide < num_categories)
    message = f"Expected labels from -1 (none) to {num_categories - 1}"
    with tf.control_dependencies(
        [tf.debugging.assert_equal(tf.reduce_all(in_range), True, message)]
    ):
        return tf.cast(tf.where(in_range, wide, -1), tf.int32), in_range
