"""Labels as a perturbation: direct loss minimisation of a task loss of the code.

A labelled example knows what its code should have been. With the task loss l(z, y), `cost` for
a wrong class and 0 for the right one, the direct gradient of E[l(z*, y)] is

    (z* - z*(eps)) / eps,    z*(eps) = argmax{h + gamma - eps l(., y)},

whose mean is (softmax(h) - softmax(h - eps l(., y))) / eps. An ever larger cost gives the paper's
limit, z*(eps) := y: its mean, (softmax(h) - y) / eps, is the gradient of the cross-entropy, 1 / eps
times.
"""

import tensorflow as tf

from tf_direct_opt.direct import loss_with_difference
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
    if cost is not None and not cost > 0:
        raise ValueError(f"Expected a positive `cost` of a wrong class, in nats; received {cost}.")
    solver = Categorical()
    # -1 has a row of zeros here: nothing to gain anywhere, and z*(eps) stays where z* is.
    right = tf.one_hot(labels, logits.shape[-1])
    scores, code = perturbed_argmax(logits, noise, solver)
    wrong = tf.reduce_sum(right, axis=-1) - tf.reduce_sum(right * code, axis=-1)
    if cost is None:
        # An epsilon of 0 is left to the difference to refuse.
        loss, gain = wrong, tf.math.divide_no_nan(_DECISIVE, tf.cast(epsilon, tf.float32))
    else:
        loss, gain = cost * wrong, cost
    # Up to a constant of each example the task loss is what its label saves.
    table = -tf.reshape(tf.convert_to_tensor(gain, tf.float32), [-1, 1]) * right
    loss, _ = loss_with_difference(loss, logits, scores, code, table, epsilon, solver)
    return loss
