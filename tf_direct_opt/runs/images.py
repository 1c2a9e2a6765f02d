"""Binary images in memory, in three parts: what the feeds of `batches.py` are made from."""

import dataclasses

import numpy as np

PARTS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True)
class Images:
    """Binary images: three uint8 arrays [n, height, width] of zeros and ones.

    `labels` has the classes of each part, int32 [n], from 0 to `num_classes` - 1; it is empty where
    the parts have no classes in common (Omniglot).
    """

    name: str
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    labels: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def image_shape(self) -> tuple[int, int]:
        return self.train.shape[1:]

    @property
    def num_classes(self) -> int:
        return 1 + int(self.labels["train"].max()) if self.labels else 0
