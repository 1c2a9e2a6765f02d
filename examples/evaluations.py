"""The cost of an estimator that no machine changes: how many codes the decoder decodes."""

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
