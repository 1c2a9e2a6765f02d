"""The contract of a `loss_fn`, looked at where one is called; its face for comparisons.

A decoder with Dropout or BatchNormalization is another function at every call of its training, so
that two codes decoded in training differ even where the decoder ignores the code. Therefore the
code that is used is decoded as in training, and what is compared with it as at inference: a
`loss_fn` with such a decoder has an attribute `inference`, the same losses decoded so.
"""

import dataclasses
from typing import Any

import tensorflow as tf

from tf_direct_opt.perturbation import check_finite, zero_if
from tf_direct_opt.types import LossFn


@dataclasses.dataclass(frozen=True)
class WithInference:
    """A `loss_fn` whose decoder is another function in training than at inference."""

    training: LossFn
    inference: LossFn

    def __call__(self, codes):
        return self.training(codes)


class Checked:
    """A `loss_fn` that is held to its contract at every call; see `checked`."""

    def __init__(self, function, batch, differentiable):
        self.function = function
        self.batch = batch
        self.differentiable = differentiable

    def __call__(self, codes):
        return _checked_losses(self.function(codes), codes, self.batch, self.differentiable)

    @property
    def inference(self) -> "Checked":
        """What candidates are compared by: itself, unless the function has another face."""
        inference = getattr(self.function, "inference", None)
        return self if inference is None else Checked(inference, self.batch, self.differentiable)

    def compared(
        self,
        codes: tf.Tensor,  # [S, M, N, K]
        losses: tf.Tensor,  # [B, M]
    ) -> tf.Tensor:
        """The losses [B, M] of codes as candidates are compared, without gradient.

        Args:
            losses: of the same codes, as in training, which serve where the two are the same.
        """
        inference = self.inference
        return tf.stop_gradient(losses if inference is self else inference(codes))


def checked(
    loss_fn: LossFn | None,
    batch: tf.Tensor | int | None = None,  # []
    differentiable: bool = False,
) -> Checked:
    """The `loss_fn`, whose results are float32 [B, M], finite, or refused where they are traced.

    Args:
        loss_fn: codes [S, M, N, K] -> losses [B, M]; one that is checked already stays.
        batch: B where there is one, see `batch_size`.
        differentiable: whether the losses are differentiated towards the codes. Where they are
            not, integers and NumPy arrays do as well.

    Raises:
        ValueError: no callable; losses of another shape or dtype.
        tf.errors.InvalidArgumentError: losses that are not finite, in eager and graph mode. XLA
            drops assertions, so there the loss stays what it is.
    """
    if isinstance(loss_fn, Checked):
        return loss_fn
    if not callable(loss_fn):
        raise ValueError(
            f"Expected `loss_fn`, a callable codes -> losses; received {loss_fn!r}. Please call "
            "estimator(logits, loss_fn=loss_fn, training=True)."
        )
    return Checked(loss_fn, batch, differentiable)


def checked_per_example(
    values: tf.Tensor,  # [B]
    batch: tf.Tensor | int,  # []
    what: str,
) -> tf.Tensor:
    """Values, float32 [B], as given; ValueError for another shape, which would be broadcast."""
    values = tf.cast(values, tf.float32)
    expected = [batch if isinstance(batch, int) else None]
    if not values.shape.is_compatible_with(expected):
        raise ValueError(
            f"Expected {what}, one number an example, [{expected[0] or 'B'}]; received shape "
            f"{values.shape}. Please take one column, or sum over the others."
        )
    return values


def differentiated(
    slope: tf.Tensor | None,  # [B, ...]
) -> tf.Tensor:
    """A derivative towards the codes; ValueError where there is none."""
    if slope is None:
        raise ValueError(
            "Expected `loss_fn` to be differentiable towards the codes, as the estimator goes "
            "through its derivative; received integers, NumPy, or what does not depend on them. "
            "Please compute the losses in TensorFlow, or take an estimator that needs their values "
            "alone: 'direct', 'score_function'."
        )
    return slope


def batch_size(
    tensor: tf.Tensor,  # [B, ...]
) -> tf.Tensor | int:
    """B of a tensor [B, ...]: a number where it is known."""
    return tf.shape(tensor)[0] if tensor.shape[0] is None else tensor.shape[0]


def _checked_losses(losses: Any, codes, batch, differentiable) -> tf.Tensor:
    is_tensor = tf.is_tensor(losses)
    if not is_tensor:
        try:
            losses = tf.convert_to_tensor(losses)
        except (TypeError, ValueError) as error:
            raise ValueError(_refusal(codes, batch, f"{type(losses).__name__}: {error}")) from error
    dtype = losses.dtype
    if not (dtype.is_floating or dtype.is_integer):
        raise ValueError(_refusal(codes, batch, f"the dtype {dtype.name}"))
    if differentiable and not (is_tensor and dtype.is_floating):
        differentiated(None)
    expected = _expected_shape(codes, batch)
    # A batch of unknown size is hardly one example: codes that were shared were not broadcast.
    shared = (
        batch is not None and expected[0] is None and losses.shape.rank and losses.shape[0] == 1
    )
    if shared or not losses.shape.is_compatible_with(expected):
        raise ValueError(_refusal(codes, batch, f"shape {losses.shape}"))
    losses = tf.ensure_shape(tf.cast(losses, tf.float32), expected)
    # The assertions have no gradient: an overflow that a LossScaleOptimizer makes passes.
    if batch is not None and expected[0] is None:
        message = "Expected `loss_fn` to return losses [B, M], a row for each example of the batch"
        losses += zero_if(tf.equal(tf.shape(losses)[0], batch), message)
    with tf.control_dependencies([check_finite(tf.stop_gradient(losses), "losses of `loss_fn`")]):
        return tf.identity(losses)


def _expected_shape(codes, batch) -> list[int | None]:
    shared, count = codes.shape[:2]
    static = batch if isinstance(batch, int) else None
    return [shared if static is None and shared != 1 else static, count]


def _refusal(codes, batch, received) -> str:
    rows, count = _expected_shape(codes, batch)
    return (
        "Expected `loss_fn` to return losses [B, M], nats, one of each example and code, here "
        f"[{rows or 'B'}, {count or 'M'}] for codes of shape {codes.shape}; received {received}. "
        "Sum over pixels and variables alone, and broadcast losses of shared codes to the batch."
    )
