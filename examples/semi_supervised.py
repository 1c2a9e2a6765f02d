"""Few labels: which images have them, and batches of images with and without."""

import batches
import numpy as np
import tensorflow as tf


def labelled_subset(
    labels: np.ndarray,  # [n]
    num_labels: int,
    seed: int,
) -> np.ndarray:
    """Indices [num_labels] of a subset with as many images of each class, drawn from `seed`.

    Raises:
        ValueError: more labels than images, a number that the classes do not divide, or a class
            that has not enough images.
    """
    num_classes = 1 + int(labels.max())
    if not 1 <= num_labels <= len(labels):
        raise ValueError(
            f"Expected from 1 to {len(labels)} labels, the training images; received {num_labels}."
        )
    if num_labels % num_classes:
        raise ValueError(
            f"Expected a number of labels that the {num_classes} classes divide, as many of each; "
            f"received {num_labels}."
        )
    each, order = num_labels // num_classes, np.random.default_rng(seed).permutation(len(labels))
    chosen = [order[labels[order] == label][:each] for label in range(num_classes)]
    for label, indices in enumerate(chosen):
        if len(indices) < each:
            raise ValueError(
                f"Expected {each} labelled images of each class; class {label} has "
                f"{len(indices)}. Please ask for fewer labels."
            )
    return np.sort(np.concatenate(chosen))


class SemiSupervisedFeed:
    """Batches (images, labels): -1 for the images of which no label is known.

    The first `batch_size` - `num_labelled` of a batch are images without label, each image of the
    training part once an epoch; the rest are labelled ones, drawn again and again: in
    proportion to their number they would hardly ever be seen.

    Args:
        images: a `data.Images` with labels.
        labelled: indices of the training images whose labels are known.
        batch_size: images of a step.
        num_labelled: labelled ones among them; all of them for supervised learning, whose epoch
            is as many images, with repeats.
        seed: of the order.
        max_shift: pixels by which the labelled images of a batch are moved, up to, in each
            direction.
    """

    def __init__(self, images, labelled, batch_size, num_labelled, seed, max_shift=0):
        if not 1 <= num_labelled <= batch_size:
            raise ValueError(
                f"Expected from 1 to {batch_size} labelled images a batch; received {num_labelled}."
            )
        if not 0 <= max_shift < min(images.image_shape):
            raise ValueError(
                f"Expected to move images of {images.image_shape} by 0 or more pixels, less than "
                f"their size; received {max_shift}."
            )
        self.images = images
        self.labelled = labelled
        self.num_labelled = num_labelled
        self.num_unlabelled = batch_size - num_labelled
        self.seed = seed
        self.max_shift = max_shift
        self.steps = len(images.train) // (self.num_unlabelled or batch_size)

    def training(self, initial_epoch, epochs):
        known = tf.constant(self.images.train[self.labelled])
        known_labels = tf.constant(self.images.labels["train"][self.labelled], tf.int32)
        size, seed = self.num_labelled, self.seed

        def known_batch(step):
            # A function of the step alone, so that a resumed run draws what it would have drawn.
            draw = tf.random.stateless_uniform([size], [seed, step], 0, len(known), tf.int32)
            chosen = tf.cast(tf.gather(known, draw), tf.float32)
            return self._moved(chosen, step), tf.gather(known_labels, draw)

        steps = tf.data.Dataset.range(initial_epoch * self.steps, epochs * self.steps)
        labelled = steps.map(known_batch)
        if not self.num_unlabelled:
            return labelled.prefetch(4)
        unlabelled = batches.training_batches(
            self.images.train, self.num_unlabelled, seed, initial_epoch, epochs
        )

        def joined(images, known_part):
            known_images, known_labels = known_part
            none = tf.fill([self.num_unlabelled], -1)
            return tf.concat([images, known_images], 0), tf.concat([none, known_labels], 0)

        return tf.data.Dataset.zip(unlabelled, labelled).map(joined).prefetch(4)

    def evaluation(self, part):
        return batches.evaluation_batches(getattr(self.images, part), self.images.labels[part])

    def _moved(self, images, step):
        """All images of a batch moved alike, background drawn in."""
        most = self.max_shift
        if not most:
            return images
        height, width = self.images.image_shape
        padded = tf.pad(images, [[0, 0], [most, most], [most, most]])
        # Another stream than that of the draws.
        start = tf.random.stateless_uniform([2], [step, self.seed], 0, 2 * most + 1, tf.int32)
        moved = tf.slice(padded, [0, start[0], start[1]], [self.num_labelled, height, width])
        return tf.ensure_shape(moved, images.shape)
