"""The direct estimator: a gradient through argmax as a difference of two argmaxes.

With z* = argmax{h + gamma} and z*(eps) = argmax{h + gamma - eps f}, Theorem 1 of the paper says

    grad_h E[f(z*)] = lim_{eps -> 0} E[(z* - z*(eps)) / eps].

For a single categorical variable the mean is known at every finite eps:

    E[(z* - z*(eps)) / eps] = (softmax(h) - softmax(h - eps f)) / eps,

which is what the tests hold this module to. Everything here is first order: a second derivative
through an argmax is not defined by the theorem.

References:
    Lorberbom, Gane, Jaakkola, Hazan, "Direct Optimization through arg max for Discrete
    Variational Auto-Encoder", NeurIPS 2019, arXiv:1806.02867.
"""

import math
import numbers
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_direct_opt import loss_scales
from tf_direct_opt.perturbation import (
    check_finite,
    nan_unless_finite,
    per_example,
    perturbed_argmax,
    solve,
)
from tf_direct_opt.slopes import attach_slope, first_order_only, refuse_vectorized_map
from tf_direct_opt.solvers.categorical import Categorical
from tf_direct_opt.types import Solver

DIFFERENCES = ("toward_better", "away_from_worse", "central")


def check_difference(difference: str) -> None:
    """ValueError for an unknown sign of the difference."""
    if difference not in DIFFERENCES:
        raise ValueError(f"Expected `difference` in {DIFFERENCES}; received {difference!r}.")


def epsilon_difference(
    scores: tf.Tensor,  # [B, *event]
    code: tf.Tensor,  # [B, *event]
    loss_table: tf.Tensor,  # [B, *event]
    epsilon: tf.Tensor,  # [] or [B]
    solver: Solver,
    difference: str = "toward_better",
) -> tf.Tensor:
    """The epsilon-difference, an estimate of grad_h E[f(z*)], one for each example.

    toward_better:    (z* - argmax{scores - eps f}) / eps
    away_from_worse:  (argmax{scores + eps f} - z*) / eps
    central:          (argmax{scores + eps f} - argmax{scores - eps f}) / (2 eps)

    Args:
        scores: logits + noise.
        code: solver(scores), computed by the caller, who needs it for the loss.
        loss_table: loss of every single-coordinate choice, nats; entries that are equal within a
            variable cancel.
        epsilon: step, in 1/nats, positive.
        solver: the solver that gave `code`.
        difference: one of the three signs above.

    Returns:
        float32 [B, *event], zero where the perturbed argmax did not move.

    Raises:
        ValueError: unknown `difference`, or a number `epsilon` that is not positive.
        tf.errors.InvalidArgumentError: a tensor `epsilon` that is not positive.
    """
    check_difference(difference)
    scores, code = tf.cast(scores, tf.float32), tf.cast(code, tf.float32)
    epsilon = per_example(checked_epsilon(epsilon), scores)
    gaps = tf.cast(loss_table, tf.float32)
    if isinstance(solver, Categorical):
        # A row less its entry at the code: of losses of 10^4 nats, as large images have them, the
        # differences that count would be rounded.
        gaps -= tf.reduce_sum(code * gaps, axis=-1, keepdims=True)
    step = epsilon * gaps
    if difference == "toward_better":
        return (code - solve(solver, scores - step)) / epsilon
    if difference == "away_from_worse":
        return (solve(solver, scores + step) - code) / epsilon
    both = solve(solver, tf.concat([scores + step, scores - step], axis=0))  # One call is faster.
    worse, better = tf.split(both, 2)
    return tf.ensure_shape((worse - better) / (2.0 * epsilon), scores.shape)


def direct_loss(
    loss: tf.Tensor,  # [B]
    logits: tf.Tensor,  # [B, *event]
    noise: tf.Tensor,  # [B, *event]
    loss_table: tf.Tensor,  # [B, *event]
    epsilon: tf.Tensor,  # [] or [B]
    solver: Solver,
    difference: str = "toward_better",
) -> tf.Tensor:
    """The loss itself, with the direct gradient attached towards the logits.

    Backward, an upstream gradient u [B] reaches `loss` unchanged and `logits` as
    u * epsilon_difference. It is linear in u, so that epsilon means the same at every batch size,
    number of replicas and loss scale.

    Args:
        loss: per-example loss at the code used, nats.
        logits: unnormalised log-probabilities, nats.
        noise: zero-mean Gumbel noise, the one that gave the code used.
        loss_table: loss of every single-coordinate choice, nats; no gradient passes to it.
        epsilon: step, in 1/nats.
        solver: scores -> code.
        difference: "toward_better", "away_from_worse" or "central".

    Returns:
        [B], equal to `loss`; NaN for an example whose logits, noise or table are not finite where
        XLA drops assertions.

    Raises:
        ValueError, tf.errors.InvalidArgumentError: as `epsilon_difference`, and for non-finite
            logits, noise or table.

    Example:
        >>> logits = tf.Variable([[0.0, 0.0]])
        >>> with tf.GradientTape() as tape:
        ...     loss = direct_loss(
        ...         tf.constant([3.0]), logits, tf.constant([[0.1, 0.0]]),
        ...         tf.constant([[3.0, 1.0]]), 0.5, lambda s: tf.one_hot(tf.argmax(s, -1), 2))
        >>> tape.gradient(loss, logits).numpy()
        array([[ 2., -2.]], dtype=float32)
    """
    require_shapes(logits, noise=noise, loss_table=loss_table)
    if not loss.shape.is_compatible_with(logits.shape[:1]):
        raise ValueError(
            f"Expected `loss` of shape {tuple(logits.shape[:1])}, one an example; received shape "
            f"{loss.shape}."
        )
    scores, code = perturbed_argmax(logits, noise, solver)
    loss, _ = loss_with_difference(
        loss, logits, scores, code, loss_table, epsilon, solver, difference
    )
    return loss


def loss_with_difference(
    loss: tf.Tensor,  # [B]
    logits: tf.Tensor,  # [B, *event]
    scores: tf.Tensor,  # [B, *event]
    code: tf.Tensor,  # [B, *event]
    loss_table: tf.Tensor,  # [B, *event]
    epsilon: tf.Tensor,  # [] or [B]
    solver: Solver,
    difference: str = "toward_better",
    weight: tf.Tensor | float = 1.0,
    rule: Callable | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """`direct_loss` for a caller who has maximised already: `(loss, weight epsilon_difference)`.

    `rule` is another function of the same arguments in the place of `epsilon_difference`.
    """
    loss_table = check_finite(tf.stop_gradient(loss_table), "loss_table")
    rule = epsilon_difference if rule is None else rule
    slope = weight * rule(scores, code, loss_table, epsilon, solver, difference)
    loss = tf.where(tf.convert_to_tensor(epsilon, tf.float32) > 0.0, loss, math.nan)
    return attach_slope(nan_unless_finite(loss, loss_table), logits, slope), slope


def direct_argmax(
    logits: tf.Tensor,  # [B, *event]
    noise: tf.Tensor,  # [B, *event]
    epsilon: tf.Tensor,  # [] or [B]
    solver: Solver,
    difference: str = "toward_better",
    loss_scale: tf.Tensor | float | str = 1.0,  # [] or [B]
) -> tf.Tensor:
    """The perturbed argmax as an operator: code forward, epsilon-difference backward.

    The upstream gradient dy [B, *event] is read as a linearised loss table, f~ = dy / loss_scale,
    and loss_scale * epsilon_difference is sent back, towards the logits and the noise alike.
    Unlike `direct_loss` this is not linear in dy, so the factor that dy carries against the
    gradient of one example's loss has to be known: 1/B for a mean over the batch, times
    1/replicas, times a loss scale of mixed precision. With "relative" it need not be known:

        loss_scale = |dy| / |logits + noise|      of each example,

    whose step is `epsilon` of the length of the scores whatever factor is on dy, so that what is
    sent back is homogeneous of degree one in dy. (Lengths are measured about the mean of the K
    categories, and for each variable, where the solver is categorical: it does not see the mean.)

    Args:
        logits: unnormalised log-probabilities, nats.
        noise: zero-mean Gumbel noise; zeros give the plain argmax.
        epsilon: step, in 1/nats, against the per-example loss; without unit for "relative".
        solver: scores -> code.
        difference: "toward_better", "away_from_worse" or "central".
        loss_scale: d(training loss) / d(loss of one example), or "relative".

    Returns:
        code, float32 [B, *event]. An upstream gradient that is not finite gives an example the
        gradient NaN, for a `LossScaleOptimizer` to skip the step.

    Raises:
        ValueError, tf.errors.InvalidArgumentError: as `direct_loss`.
        ValueError: a second derivative.

    References:
        Niepert, Minervini, Franceschi, "Implicit MLE", NeurIPS 2021, read dy so; Minervini,
        Franceschi, Niepert, "Adaptive Perturbation-Based Gradient Estimation for Discrete Latent
        Variable Models", AAAI 2023, take a step relative to it.
    """
    code, _ = direct_argmax_with_probe(logits, noise, epsilon, solver, difference, loss_scale)
    return code


def direct_argmax_with_probe(
    logits: tf.Tensor,  # [B, *event]
    noise: tf.Tensor,  # [B, *event]
    epsilon: tf.Tensor,  # [] or [B]
    solver: Solver,
    difference: str = "toward_better",
    loss_scale: tf.Tensor | float | str | None = None,  # [] or [B]
) -> tuple[tf.Tensor, tf.Tensor]:
    """`direct_argmax` that can measure its own loss scale: returns `(code, probe)`.

    The probe, a scalar, is zero. Added to a training loss that is a mean over the B examples it
    changes nothing, but the gradient that comes back through it is the factor between the two:
    replicas and mixed-precision scale alike. With `loss_scale=None` that factor over B is used,
    and a probe that was left out of the loss is an error.
    """
    check_difference(difference)
    loss_scales.check(loss_scale)
    refuse_vectorized_map()
    logits, noise = tf.convert_to_tensor(logits), tf.convert_to_tensor(noise)
    require_shapes(logits, noise=noise)
    epsilon = checked_epsilon(epsilon)

    # Outside of the operator, which must not meet variables of a solver's.
    scores, code = map(tf.stop_gradient, perturbed_argmax(logits, noise, solver))

    @tf.custom_gradient
    def operator(logits, noise):
        def backward(code_upstream, probe_upstream):
            # That of a gather is sparse.
            upstream = tf.cast(tf.convert_to_tensor(code_upstream), tf.float32)
            if loss_scale is None:
                scale = loss_scales.measured(probe_upstream) / tf.cast(
                    tf.shape(scores)[0], tf.float32
                )
            elif isinstance(loss_scale, str):
                scale = loss_scales.relative(upstream, scores, solver)
            else:
                scale = per_example(loss_scales.positive(loss_scale), scores)
            table = tf.math.divide_no_nan(upstream, scale)
            # What is not finite goes on as NaN, not to the solver: a LossScaleOptimizer overflows
            # on purpose and then skips the step.
            finite = tf.where(tf.math.is_finite(table), table, 0.0)
            slope = epsilon_difference(scores, code, finite, epsilon, solver, difference)
            slope = first_order_only(nan_unless_finite(slope * scale, table), upstream, logits)
            return tf.cast(slope, logits.dtype), tf.cast(slope, noise.dtype)

        return (tf.identity(code), tf.constant(0.0)), backward

    return operator(logits, noise)


def require_shapes(logits: tf.Tensor, **others) -> None:
    """ValueError unless the others have the shape of the logits: what differs would broadcast."""
    for name, other in others.items():
        if not tf.TensorShape(other.shape).is_compatible_with(logits.shape):
            raise ValueError(
                f"Expected `{name}` of the shape of the logits, {tuple(logits.shape)}; received "
                f"{tuple(other.shape)}. Please reshape it."
            )


def checked_epsilon(epsilon) -> tf.Tensor:
    """The step, float32 [] or [B]; refused, or NaN where XLA drops assertions, unless positive."""
    if isinstance(epsilon, numbers.Real) and not 0 < float(epsilon) < math.inf:
        raise ValueError(
            f"Expected a positive `epsilon` (1/nats), no infinite one; received {epsilon}. The "
            f"sign of the step is chosen with `difference`, one of {DIFFERENCES}."
        )
    epsilon = tf.convert_to_tensor(epsilon, tf.float32)
    known = tf.get_static_value(epsilon)
    if known is not None and np.all((known > 0) & np.isfinite(known)):
        return epsilon
    # One operation where an assertion takes a branch, which a step of a millisecond feels.
    return tf.debugging.check_numerics(
        tf.where(epsilon > 0.0, epsilon, math.nan), "Expected a positive `epsilon` (1/nats)"
    )
