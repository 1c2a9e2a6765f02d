"""Binary images and labels for the examples, read into memory whole: nothing is decoded twice.

TensorFlow is imported by what needs it only: whether a data set is there is said at once.
"""

import dataclasses
import functools
import json
import os
import pathlib

import numpy as np
from absl import flags

FLAGS = flags.FLAGS

DATASETS = ("digits", "mnist", "fashion_mnist", "omniglot", "omniglot_small")

PARTS = ("train", "valid", "test")

flags.DEFINE_enum("dataset", "digits", DATASETS, "Data set.")
flags.DEFINE_string("data_dir", None, "TFDS folder [$TFDS_DATA_DIR or ~/tensorflow_datasets].")
flags.DEFINE_bool("download", False, "Let TFDS download and prepare a missing data set.")

# Where the paper's 50k/10k/10k split, or the nearest thing to it, is found in TFDS.
_TFDS_SPLITS = {
    "mnist": {"train": "train[:50000]", "valid": "train[50000:]", "test": "test"},
    "fashion_mnist": {"train": "train[:50000]", "valid": "train[50000:]", "test": "test"},
    "omniglot": {"train": "train[:90%]", "valid": "train[90%:]", "test": "test"},
    "omniglot_small": {"train": "small1[:90%]", "valid": "small1[90%:]", "test": "small2"},
}


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


def check_flags() -> None:
    """Raises the ValueError of `load` for data that is not there, in a fraction of a second."""
    require_prepared(FLAGS.dataset, FLAGS.data_dir, FLAGS.download)


def from_flags() -> Images:
    """The data set that the flags name; kept, as a comparison trains many models on it."""
    return _kept(FLAGS.dataset, FLAGS.data_dir, FLAGS.download)


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
    require_prepared(name, data_dir, download)
    return _load_digits() if name == "digits" else _load_tfds(name, data_dir, download)


_kept = functools.lru_cache(maxsize=1)(load)


def require_prepared(name: str, data_dir: str | None = None, download: bool = False) -> None:
    """Raises the ValueError of `load` for data that is not there, in a fraction of a second.

    TFDS itself would try the network for minutes before it says so.
    """
    if name not in DATASETS:
        raise ValueError(f"Expected a data set in {DATASETS}; received {name!r}.")
    if name == "digits" or download:
        return
    folder = _folder(data_dir)
    infos = list((folder / _builder_name(name)).glob("**/dataset_info.json"))
    if not infos:
        raise ValueError(_how_to_prepare(name, folder))
    needed = {split.split("[")[0] for split in _TFDS_SPLITS[name].values()}
    found = {split["name"] for info in infos for split in json.loads(info.read_text())["splits"]}
    if not needed <= found:
        raise ValueError(
            f"Expected the splits {sorted(needed)} of {_builder_name(name)!r} in {folder}; found "
            f"only {sorted(found)}. Please prepare the whole data set with --download, or give "
            "another --dataset."
        )


def _folder(data_dir: str | None) -> pathlib.Path:
    folder = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(folder).expanduser()


def _builder_name(name: str) -> str:
    return "omniglot" if name == "omniglot_small" else name


def _how_to_prepare(name: str, folder: pathlib.Path) -> str:
    builder_name = _builder_name(name)
    return (
        f"Expected the data set {builder_name!r} prepared by TFDS under {folder / builder_name}; "
        "found none. Please add --download to prepare it there, give the folder that has it with "
        '--data_dir, or run: python -c "import tensorflow_datasets as tfds; '
        f"tfds.load('{builder_name}', data_dir='{folder}')\""
    )


def _load_digits() -> Images:
    import sklearn.datasets

    digits = sklearn.datasets.load_digits()
    # The file is ordered by writer; a fixed permutation makes the three splits alike.
    order = np.random.default_rng(0).permutation(len(digits.images))
    images = np.split(_binarise(digits.images / 16.0)[order], [1437, 1617])
    labels = np.split(digits.target.astype(np.int32)[order], [1437, 1617])
    return Images("digits", *images, dict(zip(PARTS, labels, strict=True)))


def _load_tfds(name: str, data_dir: str | None, download: bool) -> Images:
    import tensorflow_datasets as tfds

    builder_name, folder, splits = _builder_name(name), _folder(data_dir), _TFDS_SPLITS[name]
    builder = tfds.builder(builder_name, data_dir=str(folder))
    if download:
        builder.download_and_prepare()
    elif not builder.is_prepared():
        raise ValueError(f"{_how_to_prepare(name, folder)} (version {builder.version})")
    if not name.startswith("omniglot"):
        arrays = {part: _read(builder, split) for part, split in splits.items()}
        images, labels = ({part: array[i] for part, array in arrays.items()} for i in (0, 1))
        return Images(name, **images, labels=labels)
    arrays = {part: _read_omniglot(builder, split) for part, split in splits.items()}
    if name == "omniglot_small":
        # Greek and Latin are in both small sets: a model tested on an alphabet that it was
        # trained on would be flattered.
        known = np.union1d(arrays["train"][1], arrays["valid"][1])
        images, alphabets = arrays["test"]
        arrays["test"] = images[~np.isin(alphabets, known)], alphabets
    return Images(name, **{part: images for part, (images, _) in arrays.items()})


def _read(builder, split: str) -> tuple[np.ndarray, np.ndarray]:
    examples = builder.as_dataset(split=split, batch_size=-1)
    images = _binarise(examples["image"].numpy()[..., 0] / np.float32(255))
    return images, examples["label"].numpy().astype(np.int32)


def _read_omniglot(builder, split: str) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow as tf

    def reduce_size(example):
        ink = 1.0 - tf.cast(example["image"][..., :1], tf.float32) / 255.0
        return tf.image.resize(ink, [28, 28], method="area")[..., 0], example["alphabet"]

    batches = builder.as_dataset(split=split).batch(500).map(reduce_size)
    images, alphabets = zip(*batches.as_numpy_iterator(), strict=True)
    return _binarise(np.concatenate(images)), np.concatenate(alphabets)


def _binarise(images: np.ndarray) -> np.ndarray:
    return (images > 0.5).astype(np.uint8)
