"""Binary images for the examples: one function a question, nothing decoded twice.

`load` reads a whole data set into memory as 0/1 bytes; `training_batches` and
`evaluation_batches` turn such arrays into the `tf.data` pipelines of a run.
"""

import dataclasses
import os
import pathlib

import numpy as np
import tensorflow as tf

DATASETS = ("digits", "mnist", "fashion_mnist", "omniglot", "omniglot_small")

# Where the paper's 50k/10k/10k split, or the nearest thing to it, is found in TFDS.
_TFDS_SPLITS = {
    "mnist": {"train": "train[:50000]", "valid": "train[50000:]", "test": "test"},
    "fashion_mnist": {"train": "train[:50000]", "valid": "train[50000:]", "test": "test"},
    "omniglot": {"train": "train[:90%]", "valid": "train[90%:]", "test": "test"},
    "omniglot_small": {"train": "small1[:90%]", "valid": "small1[90%:]", "test": "small2"},
}


@dataclasses.dataclass(frozen=True)
class Images:
    """Binary images: three uint8 arrays [n, height, width] of zeros and ones."""

    name: str
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray

    @property
    def image_shape(self) -> tuple[int, int]:
        return self.train.shape[1:]


def load(name: str, data_dir: str | None = None, download: bool = False) -> Images:
    """Loads a data set, binarised at 0.5, in the paper's splits.

    digits: scikit-learn's 1797 images of 8x8, embedded (1437 / 180 / 180).
    mnist, fashion_mnist: 28x28, 50k / 10k / 10k.
    omniglot: reduced to 28x28, ink = 1; the official train and test, validation cut out of train.
    omniglot_small: the same from the small background sets; test without the alphabets of train.

    Args:
        name: one of `DATASETS`.
        data_dir: TFDS folder; None takes $TFDS_DATA_DIR, then ~/tensorflow_datasets.
        download: whether TFDS may download and prepare what is missing.

    Raises:
        ValueError: unknown name, or a data set that is not prepared and not to be downloaded.
    """
    if name == "digits":
        return _load_digits()
    if name not in _TFDS_SPLITS:
        raise ValueError(f"Expected a data set in {DATASETS}; received {name!r}.")
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    data_dir = pathlib.Path(data_dir).expanduser()
    splits = _TFDS_SPLITS[name]
    builder_name = "omniglot" if name == "omniglot_small" else name
    if not download:
        # Looked for without importing TFDS: a run that cannot start should say so at once.
        _require_prepared(builder_name, data_dir)
    return _load_tfds(name, builder_name, splits, data_dir, download)


def _load_digits() -> Images:
    import sklearn.datasets

    images = sklearn.datasets.load_digits().images / 16.0
    # The file is ordered by writer; a fixed permutation makes the three splits alike.
    images = _binarise(images)[np.random.default_rng(0).permutation(len(images))]
    return Images("digits", images[:1437], images[1437:1617], images[1617:])


def _load_tfds(name, builder_name, splits, data_dir, download) -> Images:
    import tensorflow_datasets as tfds

    builder = tfds.builder(builder_name, data_dir=str(data_dir))
    if download:
        builder.download_and_prepare()
    elif not builder.is_prepared():
        raise ValueError(_how_to_prepare(builder_name, data_dir, f"version {builder.version}"))
    for split in splits.values():
        if split.split("[")[0] not in builder.info.splits:
            raise ValueError(
                f"Expected the split {split!r} of {builder_name!r} in {data_dir}; found only "
                f"{sorted(builder.info.splits)}. Please prepare the whole data set with "
                "--download, or give another --dataset."
            )
    if not name.startswith("omniglot"):
        return Images(name, **{part: _read(builder, split) for part, split in splits.items()})
    arrays = {part: _read_omniglot(builder, split) for part, split in splits.items()}
    if name == "omniglot_small":
        # Greek and Latin are in both small sets: a model tested on an alphabet that it was
        # trained on would be flattered.
        known = np.union1d(arrays["train"][1], arrays["valid"][1])
        images, alphabets = arrays["test"]
        arrays["test"] = images[~np.isin(alphabets, known)], alphabets
    return Images(name, **{part: images for part, (images, _) in arrays.items()})


def _read(builder, split: str) -> np.ndarray:
    examples = builder.as_dataset(split=split, batch_size=-1)
    return _binarise(examples["image"].numpy()[..., 0] / np.float32(255))


def _read_omniglot(builder, split: str) -> tuple[np.ndarray, np.ndarray]:
    def reduce_size(example):
        ink = 1.0 - tf.cast(example["image"][..., :1], tf.float32) / 255.0
        return tf.image.resize(ink, [28, 28], method="area")[..., 0], example["alphabet"]

    batches = builder.as_dataset(split=split).batch(500).map(reduce_size)
    images, alphabets = zip(*batches.as_numpy_iterator(), strict=True)
    return _binarise(np.concatenate(images)), np.concatenate(alphabets)


def _binarise(images: np.ndarray) -> np.ndarray:
    return (images > 0.5).astype(np.uint8)


def _require_prepared(builder_name: str, data_dir: pathlib.Path) -> None:
    if not any((data_dir / builder_name).glob("**/dataset_info.json")):
        raise ValueError(_how_to_prepare(builder_name, data_dir, "any version"))


def _how_to_prepare(builder_name: str, data_dir: pathlib.Path, version: str) -> str:
    return (
        f"Expected the data set {builder_name!r} ({version}) prepared by TFDS under "
        f"{data_dir / builder_name}; found none. Please add --download to prepare it there, give "
        "the folder that has it with --data_dir, or run: "
        f"python -c \"import tensorflow_datasets as tfds; tfds.load('{builder_name}', "
        f"data_dir='{data_dir}')\""
    )


def training_batches(
    images: np.ndarray,  # [n, height, width]
    batch_size: int,
    seed: int,
    initial_epoch: int,
    epochs: int,
) -> tuple[tf.data.Dataset, int]:
    """Batches of the epochs `initial_epoch` to `epochs`, and the number of steps in each.

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

    dataset = (
        tf.data.Dataset.range(initial_epoch, epochs)
        .flat_map(epoch_indices)
        .map(lambda index: tf.cast(tf.gather(images, index), tf.float32))
        .prefetch(4)
    )
    return dataset, steps


def evaluation_batches(images: np.ndarray, batch_size: int = 500) -> tf.data.Dataset:
    """The images in order, all of them."""
    return (
        tf.data.Dataset.from_tensor_slices(images)
        .batch(batch_size)
        .map(lambda batch: tf.cast(batch, tf.float32))
        .cache()
    )
