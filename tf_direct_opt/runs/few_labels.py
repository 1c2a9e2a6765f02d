"""Few labels: which images have them, and batches of images with and without."""

import dataclasses
import math

import keras
import numpy as np
import tensorflow as tf

from tf_direct_opt.runs import batches


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
                f"Expected {each} labelled images of each class; received {len(indices)} of class "
                f"{label}. Please ask for fewer labels."
            )
    return np.sort(np.concatenate(chosen))


@dataclasses.dataclass(frozen=True)
class Distortion:
    """Limits of random affine maps of images, drawn uniformly for each image, symmetric about 0.

    Args:
        shift: pixels, in each direction.
        rotation: degrees.
        zoom: share of the size, in each direction.
        shear: horizontal pixels for each vertical one.
    """

    shift: float = 0.0
    rotation: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0

    def __post_init__(self):
        for name, limit in dataclasses.asdict(self).items():
            if limit < 0:
                raise ValueError(f"Expected a {name} of at least 0; received {limit}.")
        if self.zoom >= 1:
            raise ValueError(f"Expected a zoom below 1; received {self.zoom}.")

    def __call__(
        self,
        images: tf.Tensor,  # [B, height, width], binary
        seed: tf.Tensor,  # [2]
    ) -> tf.Tensor:
        """The images moved about their centres, binary again, background drawn in."""
        if self == Distortion():
            return images
        batch, height, width = images.shape
        draws = tf.random.stateless_uniform([6, batch], seed, -1.0, 1.0)
        down, right = self.shift * draws[0], self.shift * draws[1]
        angle = math.radians(self.rotation) * draws[2]
        zoom_x, zoom_y = 1.0 + self.zoom * draws[3], 1.0 + self.zoom * draws[4]
        shear = self.shear * draws[5]
        # Output pixel (x, y) is read at (a x + b y + c, d x + e y + f).
        a, b = zoom_x * tf.cos(angle), shear - zoom_y * tf.sin(angle)
        d, e = zoom_x * tf.sin(angle), zoom_y * tf.cos(angle)
        x, y = (width - 1) / 2, (height - 1) / 2
        c, f = right + x - a * x - b * y, down + y - d * x - e * y
        zero = tf.zeros([batch])
        moved = keras.ops.image.affine_transform(
            images[..., tf.newaxis], tf.stack([a, b, c, d, e, f, zero, zero], axis=-1)
        )
        return tf.cast(moved[..., 0] > 0.5, tf.float32)


class FewLabelsFeed:
    """Batches (images, labels): -1 for the images of which no label is known.

    The first `batch_size` - `num_labelled` of a batch are images without label, each image of the
    training part once an epoch; the rest are labelled ones, drawn again and again: in
    proportion to their number they would hardly ever be seen.

    Args:
        images: an `images.Images` with labels.
        labelled: indices of the training images whose labels are known.
        batch_size: images of a step.
        num_labelled: labelled ones among them; all of them for supervised learning, whose epoch
            is as many images, with repeats.
        seed: of the order.
        distortion: of the labelled images.
    """

    def __init__(self, images, labelled, batch_size, num_labelled, seed, distortion=Distortion()):
        if not 1 <= num_labelled <= batch_size:
            raise ValueError(
                f"Expected from 1 to {batch_size} labelled images a batch; received {num_labelled}."
            )
        batches.require_batch_size(batch_size, len(images.train))
        self.images = images
        self.labelled = labelled
        self.num_labelled = num_labelled
        self.num_unlabelled = batch_size - num_labelled
        self.seed = seed
        self.distortion = distortion
        self.steps = len(images.train) // (self.num_unlabelled or batch_size)

    def training(self, initial_epoch, epochs):
        known = tf.constant(self.images.train[self.labelled])
        known_labels = tf.constant(self.images.labels["train"][self.labelled], tf.int32)
        size, seed = self.num_labelled, self.seed

        def known_batch(step):
            # A function of the step alone, so that a resumed run draws what it would have drawn.
            # Orders of epochs are drawn from (seed, epoch), the noise of a step from (seed, step).
            seeds = tf.random.split(tf.stack([seed, -1 - step]), 2)
            draw = tf.random.stateless_uniform([size], seeds[0], 0, len(known), tf.int32)
            chosen = tf.cast(tf.gather(known, draw), tf.float32)
            return self.distortion(chosen, seeds[1]), tf.gather(known_labels, draw)

        steps = tf.data.Dataset.range(initial_epoch * self.steps, epochs * self.steps)
        labelled = steps.map(known_batch)
        if not self.num_unlabelled:
            return batches.untuned(labelled.prefetch(4))
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
