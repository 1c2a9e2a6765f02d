"""Images in memory, in three parts: what the feeds of `batches.py` are made from."""

import dataclasses

import numpy as np

PARTS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True)
class Images:
    """Three arrays [n, height, width], colour ones with 3 channels: uint8 0 and 1, or float32 0..1.

    Where `redrawn`, the training images are probabilities, to be drawn anew in every epoch.
    `labels` has the classes of each part, int32 [n], from 0 to `num_classes` - 1; it is empty where
    the parts have no classes in common (Omniglot).
    """

    name: str
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    labels: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    redrawn: bool = False

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self.train.shape[1:]

    @property
    def num_classes(self) -> int:
        return 1 + int(self.labels["train"].max()) if self.labels else 0

    @classmethod
    def of_grey(
        cls,
        name: str,
        grey: dict[str, np.ndarray],  # of each part uint8 [n, height, width]
        labels: dict[str, np.ndarray],
        binarize: str = "threshold",
    ) -> "Images":
        """Images from grey ones, 0 to 255.

        Args:
            name: of the data set.
            grey: the images of each part.
            labels: their classes.
            binarize: "threshold": 1 above the middle. "bernoulli": grey is the probability of a 1;
                drawn here, from a seed of its own, for what is evaluated. "none": grey stays.
        """
        pixels: dict[str, np.ndarray]
        if binarize == "threshold":
            pixels = {part: (grey[part] > 127).astype(np.uint8) for part in PARTS}
        else:
            pixels = {part: grey[part] / np.float32(255) for part in PARTS}
        if binarize == "bernoulli":
            for seed, part in enumerate(("valid", "test")):
                uniform = np.random.default_rng(seed).random(grey[part].shape, np.float32)
                pixels[part] = (uniform < pixels[part]).astype(np.uint8)
        train, valid, test = (pixels[part] for part in PARTS)
        return cls(name, train, valid, test, labels, redrawn=binarize == "bernoulli")

    def with_num_train(self, count: int) -> "Images":
        """The first `count` training images; after them those of the validation part, which stays.

        Raises:
            ValueError: more than the two parts have.
        """
        available = len(self.train) + len(self.valid)
        if count > available:
            raise ValueError(
                f"Expected at most the {available} training and validation images of {self.name}; "
                f"received {count} to train on. Please give fewer."
            )
        train = np.concatenate([self.train, self.valid])[:count]
        labels = dict(self.labels)
        if labels:
            labels["train"] = np.concatenate([labels["train"], labels["valid"]])[:count]
        return dataclasses.replace(self, train=train, labels=labels)
