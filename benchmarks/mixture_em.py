"""EM for a mixture of K Bernoulli vectors under a uniform prior.

References:
    Dempster, Laird, Rubin, "Maximum Likelihood from Incomplete Data via the EM Algorithm", 1977.
"""

import numpy as np
import tensorflow as tf

from tf_direct_opt.losses import bernoulli_nll, exact_negative_log_likelihood


@tf.function
def nll(
    images: tf.Tensor,  # [B, P]
    pixel_logits: tf.Tensor,  # [K, P]
) -> tf.Tensor:
    """Mean -log p(x) of the mixture, nats."""
    losses = bernoulli_nll(images, pixel_logits[tf.newaxis])
    return tf.reduce_mean(exact_negative_log_likelihood(losses))


@tf.function
def em_step(
    images: tf.Tensor,  # [B, P]
    pixel_logits: tf.Tensor,  # [K, P]
) -> tf.Tensor:
    """One E- and M-step under the uniform prior: new pixel logits [K, P].

    The M-step counts one pixel more of each kind (the mean of a uniform prior on each
    probability): a pixel that never was on in training may be on in a test image.
    """
    posterior = tf.nn.softmax(-bernoulli_nll(images, pixel_logits[tf.newaxis]))
    ones = tf.matmul(posterior, images, transpose_a=True) + 1.0
    zeros = tf.reduce_sum(posterior, axis=0)[:, tf.newaxis] - ones + 2.0
    return tf.math.log(ones) - tf.math.log(zeros)


def fit(
    images: tf.Tensor,  # [B, P]
    num_categories: int,
    iterations: int,
    starts: int,
) -> tf.Tensor:
    """Pixel logits [K, P] of the start with the best likelihood of the images."""
    mean = tf.reduce_mean(images, axis=0)
    fits = []
    for start in range(starts):
        noise = np.random.default_rng(start).uniform(0.25, 0.75, [num_categories, mean.shape[0]])
        probabilities = 0.5 * mean + 0.5 * tf.cast(noise, tf.float32)
        pixel_logits = tf.math.log(probabilities) - tf.math.log1p(-probabilities)
        for _ in range(iterations):
            pixel_logits = em_step(images, pixel_logits)
        fits.append((float(nll(images, pixel_logits)), pixel_logits))
    return min(fits, key=lambda fit: fit[0])[1]
