"""Images and labels for the examples, read into memory whole: nothing is decoded twice.

What TFDS has decoded once is kept in `files.cache_folder()`, and read from there the
next time, if the prepared files are still the same. TensorFlow is imported by what needs it only:
whether a data set is there is said at once.
"""

import functools
import sys

import numpy as np
from absl import flags

from tf_direct_opt.runs import command_line
from tf_direct_opt.runs.images import PARTS, Images
from tf_direct_opt.runs.prepared import Prepared

FLAGS = flags.FLAGS

DATASETS = ("digits", "mnist", "fashion_mnist", "omniglot", "omniglot_small")

flags.DEFINE_enum("dataset", "digits", DATASETS, "Data set.")
flags.DEFINE_string("data_dir", None, "TFDS folder [$TFDS_DATA_DIR or ~/tensorflow_datasets].")
flags.DEFINE_bool("download", False, "Let TFDS download and prepare a missing data set.")
flags.DEFINE_enum(
    "binarize",
    "threshold",
    ["threshold", "bernoulli", "none"],
    "threshold: pixels above the middle are 1. bernoulli: grey is the probability of a 1, drawn "
    "anew in every epoch; once for images that are evaluated. none: grey pixels in the Bernoulli "
    "loss, which is no likelihood of them then.",
)
flags.DEFINE_integer(
    "num_train",
    None,
    "Training images: the first ones, past them those of the validation part [the training part].",
    lower_bound=1,
)
flags.DEFINE_bool("cache", True, "Keep what was decoded, and read it the next time.")

# Where the paper's 50k/10k/10k split, or the nearest thing to it, is found in TFDS.
_TFDS_SPLITS = {
    "mnist": {"train": "train[:50000]", "valid": "train[50000:]", "test": "test"},
    "fashion_mnist": {"train": "train[:50000]", "valid": "train[50000:]", "test": "test"},
    "omniglot": {"train": "train", "test": "test"},  # Validation: characters of train.
    "omniglot_small": {"train": "small1", "test": "small2"},
}
_ALPHABET = 100  # Omniglot's alphabets have fewer characters.
_KEPT = 2  # Counts the changes of what is kept.


def check_flags() -> None:
    """Raises the ValueError of `load` for data that is not there, in a fraction of a second."""
    require_prepared(FLAGS.dataset, FLAGS.data_dir, FLAGS.download)


def from_flags() -> Images:
    """The data set that the flags name; kept, as a comparison trains many models on it."""
    images = _kept(FLAGS.dataset, FLAGS.data_dir, FLAGS.download, FLAGS.cache, FLAGS.binarize)
    return images if FLAGS.num_train is None else images.with_num_train(FLAGS.num_train)


def load(
    name: str,
    data_dir: str | None = None,
    download: bool = False,
    cache: bool = True,
    binarize: str = "threshold",
) -> Images:
    """Loads a data set in the paper's splits, by default binarised at 0.5.

    digits: scikit-learn's 1797 images of 8x8, embedded (1437 / 180 / 180).
    mnist, fashion_mnist: 28x28, 50k / 10k / 10k.
    omniglot: reduced to 28x28, ink = 1; the official train and test, which share no alphabet;
        validation: every tenth character of train, in none of the others. (TFDS does not say who
        drew what, so that drawers cannot be kept apart: the same twenty drew all of an alphabet.)
    omniglot_small: the same from the small background sets; test without the alphabets of train.

    Args:
        name: one of `DATASETS`.
        data_dir: TFDS folder; None takes $TFDS_DATA_DIR, then ~/tensorflow_datasets.
        download: whether TFDS may download and prepare what is missing.
        cache: whether to keep what was decoded, and to read it the next time.
        binarize: "threshold", "bernoulli" or "none", see `Images.of_grey`.

    Raises:
        ValueError: unknown name, a data set that is not prepared and not to be downloaded, or one
            whose files are damaged.
    """
    require_prepared(name, data_dir, download)
    if name == "digits":
        return Images.of_grey(name, *_read_digits(), binarize)
    prepared = Prepared(_builder_name(name), data_dir, download)
    arrays = prepared.kept(f"{name}-{_KEPT}", lambda: _read(name, prepared), cache)
    images, classes = (
        {part: arrays[f"{kind}_{part}"] for part in _TFDS_SPLITS[name]}
        for kind in ("images", "classes")
    )
    if name.startswith("omniglot"):
        images, classes = _disjoint(images, classes), {}
    return Images.of_grey(name, images, classes, binarize)


_kept = functools.lru_cache(maxsize=1)(load)


def require_prepared(name: str, data_dir: str | None = None, download: bool = False) -> None:
    """Raises the ValueError of `load` for data that is not there, in a fraction of a second."""
    if name not in DATASETS:
        raise ValueError(
            f"Expected a data set in {DATASETS}; received {name!r}. Please give one of them."
        )
    if name == "digits":
        command_line.require_packages("sklearn")
        return
    needed = {split.split("[")[0] for split in _TFDS_SPLITS[name].values()}
    Prepared(_builder_name(name), data_dir, download).check(needed)


def _builder_name(name: str) -> str:
    return "omniglot" if name == "omniglot_small" else name


def _read_digits() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    import sklearn.datasets

    digits = sklearn.datasets.load_digits()
    # The file is ordered by writer; a fixed permutation makes the three splits alike.
    order = np.random.default_rng(0).permutation(len(digits.images))
    images = np.split(_grey(digits.images / 16.0)[order], [1437, 1617])
    labels = np.split(digits.target.astype(np.int32)[order], [1437, 1617])
    return dict(zip(PARTS, images, strict=True)), dict(zip(PARTS, labels, strict=True))


def _disjoint(
    images: dict[str, np.ndarray],  # of train and test
    characters: dict[str, np.ndarray],  # `_read_omniglot`'s
) -> dict[str, np.ndarray]:
    """Train, validation and test of Omniglot.

    Greek and Latin are in both small sets: a model tested on an alphabet that it was trained on
    would be flattered, as one whose validation shows it other drawings of what it has learnt.
    """
    train, test = characters["train"], characters["test"]
    held_out = np.isin(train, np.unique(train)[9::10])
    known = np.isin(test // _ALPHABET, train // _ALPHABET)
    return {
        "train": images["train"][~held_out],
        "valid": images["train"][held_out],
        "test": images["test"][~known],
    }


def _read(name: str, prepared: Prepared) -> dict[str, np.ndarray]:
    """Of each part the grey images, uint8 [n, 28, 28], and their classes or characters.

    Raises:
        ValueError: files that are missing, damaged, or hold something else.
    """
    if FLAGS.is_parsed() and ("verbose" not in FLAGS or FLAGS.verbose):
        print(f"Reading {name}, which takes a while the first time.", file=sys.stderr, flush=True)
    builder = prepared.builder()
    read_split = _read_omniglot if name.startswith("omniglot") else _read_mnist
    arrays = {}
    with prepared.readable():
        for part, split in _TFDS_SPLITS[name].items():
            images, classes = read_split(builder, split)
            expected = builder.info.splits[split].num_examples
            if len(images) != expected:
                raise ValueError(f"{len(images)} images of {expected} in the split {split}")
            if read_split is _read_mnist and not set(classes) <= set(range(10)):
                raise ValueError(f"labels out of range in the split {split}")
            arrays |= {f"images_{part}": images, f"classes_{part}": classes}
    return arrays


def _read_mnist(builder, split: str) -> tuple[np.ndarray, np.ndarray]:
    examples = builder.as_dataset(split=split, batch_size=-1)
    return examples["image"].numpy()[..., 0], examples["label"].numpy().astype(np.int32)


def _read_omniglot(builder, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and characters: the number in the alphabet, and `_ALPHABET` times that of it."""
    import tensorflow as tf

    def reduce_size(example):
        ink = 1.0 - tf.cast(example["image"][..., :1], tf.float32) / 255.0
        character = _ALPHABET * example["alphabet"] + example["alphabet_char_id"]
        return tf.image.resize(ink, [28, 28], method="area")[..., 0], character

    batches = builder.as_dataset(split=split).batch(500).map(reduce_size)
    images, characters = zip(*batches.as_numpy_iterator(), strict=True)
    return _grey(np.concatenate(images)), np.concatenate(characters).astype(np.int32)


def _grey(images: np.ndarray) -> np.ndarray:
    """[0, 1] -> 0 to 255, on the same side of the middle."""
    levels = np.round(255 * images)
    return np.where(images > 0.5, np.maximum(levels, 128), np.minimum(levels, 127)).astype(np.uint8)
