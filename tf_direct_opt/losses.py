"""Per-example losses and bounds, in nats."""

import math

import tensorflow as tf

from tf_direct_opt.perturbation import zero_if

_OUT_OF_RANGE = (
    "Expected images with values in [0, 1], the means of a Bernoulli; received others. Divide "
    "bytes by 255, or map [-1, 1] to it"
)


def bernoulli_nll(
    images: tf.Tensor,  # [B, P]
    pixel_logits: tf.Tensor,  # [S, M, P], S = 1 or B
) -> tf.Tensor:
    """Negative log-likelihood of binary images, nats, summed over pixels.

    f[b, m] = sum_p softplus(l_mp) - sum_p x_bp l_mp. The second term is a matrix product, so where
    the M decoded codes are shared by the batch (S = 1) no [B, M, P] tensor appears.

    Args:
        images: values in [0, 1].
        pixel_logits: log-odds of each pixel.

    Returns:
        float32 [B, M].

    Raises:
        ValueError: logits of another rank.
        tf.errors.InvalidArgumentError: images out of range, in eager and graph mode. XLA drops
            assertions, so there the result is NaN.
    """
    images = tf.cast(images, tf.float32)
    pixel_logits = tf.cast(pixel_logits, tf.float32)
    if pixel_logits.shape.rank != 3:
        raise ValueError(
            "Expected pixel logits [S, M, P] of M codes; received shape "
            f"{pixel_logits.shape}. For one an image, [B, P], please give logits[:, tf.newaxis]."
        )
    log_partition = tf.reduce_sum(tf.nn.softplus(pixel_logits), axis=-1)  # [S, M]
    log_partition += zero_if_means(images)
    if pixel_logits.shape[0] == 1:
        return log_partition - tf.matmul(images, pixel_logits[0], transpose_b=True)
    return log_partition - tf.linalg.matvec(pixel_logits, images)


def zero_if_means(
    images: tf.Tensor,  # [B, P]
) -> tf.Tensor:
    """0 for values in [0, 1], as `perturbation.zero_if` of that: []."""
    images = tf.cast(images, tf.float32)  # Of truth values there is no least one.
    in_range = (tf.reduce_min(images) >= 0) & (tf.reduce_max(images) <= 1)
    return zero_if(in_range, _OUT_OF_RANGE)


def exact_negative_log_likelihood(
    losses: tf.Tensor,  # [B, K]
    log_prior: tf.Tensor | None = None,  # [K]
) -> tf.Tensor:
    """-log p(x) = -logsumexp_z(log p(z) - f(x, z)) over all K codes, uniform by default: [B]."""
    if log_prior is not None:
        return -tf.reduce_logsumexp(log_prior - losses, axis=-1)
    num_codes = tf.cast(tf.shape(losses)[-1], losses.dtype)
    return tf.math.log(num_codes) - tf.reduce_logsumexp(-losses, axis=-1)


def importance_weighted_nll(
    losses: tf.Tensor,  # [B, S]
    log_ratios: tf.Tensor,  # [B, S]
) -> tf.Tensor:
    """Importance-weighted bound on -log p(x) from S draws of the posterior: [B].

    -log (1/S) sum_s p(x | z_s) p(z_s) / q(z_s | x); tight as S grows, the -ELBO at S = 1.

    Args:
        losses: -log p(x | z_s), nats.
        log_ratios: log q(z_s | x) - log p(z_s), nats.

    References:
        Burda, Grosse, Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016.
    """
    log_weights = -losses - log_ratios
    num_samples = losses.shape[-1]
    return math.log(num_samples) - tf.reduce_logsumexp(log_weights, axis=-1)
