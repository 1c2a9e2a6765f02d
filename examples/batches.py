"""tf.data pipelines over images in memory."""

import numpy as np
import tensorflow as tf


def training_batches(
    images: np.ndarray,  # [n, height, width]
    batch_size: int,
    seed: int,
    initial_epoch: int,
    epochs: int,
) -> tf.data.Dataset:
    """Batches of the epochs `initial_epoch` to `epochs`, n // batch_size steps each.

    Epoch e is one permutation drawn from (seed, e), so that a resumed run sees what the
    uninterrupted one would have seen. Whole batches only: what one epoch leaves out is drawn by
    another, and shapes stay static. Indices are shuffled rather than images, and a batch is one
    gather: nothing is done for each example in turn.
    """
    if not 1 <= batch_size <= len(images):
        raise ValueError(
            f"Expected a batch size from 1 to the {len(images)} training images; "
            f"received {batch_size}."
        )
    steps = len(images) // batch_size
    images = tf.constant(images)

    def epoch_indices(epoch):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(images.shape[0]), seed=[seed, epoch]
        )
        return tf.data.Dataset.from_tensor_slices(
            tf.reshape(order[: steps * batch_size], [steps, batch_size])
        )

    return (
        tf.data.Dataset.range(initial_epoch, epochs)
        .flat_map(epoch_indices)
        .map(lambda index: tf.cast(tf.gather(images, index), tf.float32))
        .prefetch(4)
    )


def evaluation_batches(images: np.ndarray, batch_size: int = 500) -> tf.data.Dataset:
    """The images in order, all of them."""
    return (
        tf.data.Dataset.from_tensor_slices(images)
        .batch(batch_size)
        .map(lambda batch: tf.cast(batch, tf.float32))
        .cache()
    )
