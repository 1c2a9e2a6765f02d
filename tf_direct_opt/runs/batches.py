"""tf.data pipelines over images in memory."""

from typing import Protocol

import numpy as np
import tensorflow as tf

from tf_direct_opt.runs.images import Images


class Feed(Protocol):
    """What a model is trained and evaluated on."""

    images: Images
    """All of them."""

    steps: int
    """Steps of an epoch."""

    def training(self, initial_epoch: int, epochs: int) -> tf.data.Dataset:
        """Batches of the epochs `initial_epoch` to `epochs`: a function of the epoch alone."""

    def evaluation(self, part: str) -> tf.data.Dataset:
        """Batches of one of `images.PARTS`, in order."""


class ImageFeed:
    """The images alone, each of them once an epoch.

    Args:
        images: an `images.Images`.
        batch_size: images of a step, over all replicas.
        seed: of the order.
        evaluated_at_once: images of a batch of an evaluation.

    Raises:
        ValueError: batches larger than the training images.
    """

    def __init__(self, images, batch_size: int, seed: int, evaluated_at_once: int = 500):
        require_batch_size(batch_size, len(images.train))
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.evaluated_at_once = evaluated_at_once
        self.steps = len(images.train) // batch_size

    def training(self, initial_epoch, epochs):
        images = self.images
        return training_batches(
            images.train, self.batch_size, self.seed, initial_epoch, epochs, images.redrawn
        )

    def evaluation(self, part):
        images = getattr(self.images, part)
        return evaluation_batches(images, batch_size=self.evaluated_at_once)


def training_batches(
    images: np.ndarray,  # [n, height, width]
    batch_size: int,
    seed: int,
    initial_epoch: int,
    epochs: int,
    redrawn: bool = False,
) -> tf.data.Dataset:
    """Batches of the epochs `initial_epoch` to `epochs`, n // batch_size steps each.

    Epoch e is one permutation drawn from (seed, e), so that a resumed run sees what the
    uninterrupted one would have seen. Whole batches only: what one epoch leaves out is drawn by
    another, and shapes stay static. Indices are shuffled rather than images, and a batch is one
    gather: nothing is done for each example in turn. Where they are `redrawn`, pixels are
    probabilities of a 1, which is drawn from (seed, step).
    """
    require_batch_size(batch_size, len(images))
    first_step = initial_epoch * (len(images) // batch_size)
    images = tf.constant(images)

    def batch(step, index):
        pixels = tf.cast(tf.gather(images, index), tf.float32)
        if not redrawn:
            return pixels
        # Other seeds than those of the orders, which are (seed, epoch).
        uniform = tf.random.stateless_uniform(tf.shape(pixels), tf.stack([seed, -1 - step]))
        return tf.cast(uniform < pixels, tf.float32)

    return untuned(
        index_batches(images.shape[0], batch_size, seed, initial_epoch, epochs)
        .enumerate(first_step)
        .map(batch)
        .prefetch(4)
    )


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The same batches without autotuning.

    Nothing here is to be tuned, and TensorFlow's thread that does it sleeps longer and longer: who
    ends an iteration waits until it wakes, up to as long as the iteration took, a minute at most.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def require_batch_size(batch_size: int, count: int) -> None:
    """Raises ValueError for a batch that `count` images cannot fill."""
    if not 1 <= batch_size <= count:
        raise ValueError(
            f"Expected a batch size from 1 to the {count} training images; received {batch_size}. "
            "Please give another one."
        )


def index_batches(
    count: int, batch_size: int, seed: int, initial_epoch: int, epochs: int
) -> tf.data.Dataset:
    """Batches of 0 .. count - 1 in an order drawn from (seed, epoch) for each epoch."""
    steps = count // batch_size

    def epoch_indices(epoch):
        order = tf.random.experimental.stateless_shuffle(tf.range(count), seed=[seed, epoch])
        return tf.data.Dataset.from_tensor_slices(
            tf.reshape(order[: steps * batch_size], [steps, batch_size])
        )

    return tf.data.Dataset.range(initial_epoch, epochs).flat_map(epoch_indices)


def evaluation_batches(
    images: np.ndarray,  # [n, height, width]
    labels: np.ndarray | None = None,  # [n]
    batch_size: int = 500,
) -> tf.data.Dataset:
    """The images in order, all of them, with their labels where those are given."""
    batches = tf.data.Dataset.from_tensor_slices(images).batch(batch_size)
    batches = batches.map(lambda batch: tf.cast(batch, tf.float32))
    if labels is not None:
        labels = tf.data.Dataset.from_tensor_slices(labels).batch(batch_size)
        batches = tf.data.Dataset.zip(batches, labels)
    return untuned(batches.cache())
