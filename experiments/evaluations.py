"""What is measured of an estimator and no machine changes: its cost, and how good a gradient is."""

import math

import numpy as np
import tensorflow as tf


def decoder_evaluations(
    estimator, num_variables: int, num_categories: int, batch_size: int = 100
) -> float:
    """Decoder evaluations of one training step, an image: counted, not declared.

    K codes that are decoded once for a whole batch count K / batch_size.
    """
    count = 0

    def loss_fn(codes):  # [S, M, N, K]
        nonlocal count
        count += codes.shape[0] * codes.shape[1]
        return tf.reduce_sum(tf.square(codes), axis=[2, 3]) + tf.zeros([batch_size, 1])

    logits = tf.zeros([batch_size, num_variables, num_categories])
    estimator(logits, loss_fn=loss_fn, training=True)
    return count / batch_size


def gradient_quality(
    samples: np.ndarray,  # [R, W]
    exact: np.ndarray,  # [W]
) -> dict[str, float]:
    """How R drawn gradients differ from the exact one.

    Returns:
        `bias`: of their mean, and `bias_error`, what it is wrong by; `deviation` of a draw: all as
        shares of the norm of the exact gradient. `deviation_to_mean`: as a share of the norm of
        the mean, which a biased gradient may have made small. `cosine`: mean over the draws of the
        cosine with the exact gradient; `cosine_of_mean`: that of their mean.
    """
    norm = np.linalg.norm(exact)
    mean = samples.mean(axis=0)
    variance = np.sum(samples.var(axis=0, ddof=1))
    # The mean of R draws is off by the bias and, on average, by variance / R.
    squared_bias = max(np.sum((mean - exact) ** 2) - variance / len(samples), 0.0)
    lengths = np.maximum(np.linalg.norm(samples, axis=1), 1e-30)
    length_of_mean = max(float(np.linalg.norm(mean)), 1e-30)
    return {
        "bias": math.sqrt(squared_bias) / norm,
        "bias_error": math.sqrt(variance / len(samples)) / norm,
        "deviation": math.sqrt(variance) / norm,
        "deviation_to_mean": math.sqrt(variance) / length_of_mean,
        "cosine": float(np.mean(samples @ exact / lengths / norm)),
        "cosine_of_mean": float(mean @ exact / length_of_mean / norm),
    }
