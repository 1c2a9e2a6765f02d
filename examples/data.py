"""Images and labels for the examples, read into memory whole: nothing is decoded twice.

What TFDS has decoded once is kept in `files.cache_folder()`, and read from there the
next time, if the prepared files are still the same. TensorFlow is imported by what needs it only:
whether a data set is there is said at once.
"""

import functools
import json
import os
import pathlib
import sys

import numpy as np
from absl import flags

from tf_direct_opt import files
from tf_direct_opt.runs import command_line
from tf_direct_opt.runs.images import PARTS, Images

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
    folder = _folder(data_dir)
    if download:
        import tensorflow_datasets as tfds

        tfds.builder(_builder_name(name), data_dir=str(folder)).download_and_prepare()
    arrays = _decoded(name, folder, cache)
    images, classes = (
        {part: arrays[f"{kind}_{part}"] for part in _TFDS_SPLITS[name]}
        for kind in ("images", "classes")
    )
    if name.startswith("omniglot"):
        images, classes = _disjoint(images, classes), {}
    return Images.of_grey(name, images, classes, binarize)


_kept = functools.lru_cache(maxsize=1)(load)


def require_prepared(name: str, data_dir: str | None = None, download: bool = False) -> None:
    """Raises the ValueError of `load` for data that is not there, in a fraction of a second.

    TFDS itself would try the network for minutes before it says so.
    """
    if name not in DATASETS:
        raise ValueError(
            f"Expected a data set in {DATASETS}; received {name!r}. Please give one of them."
        )
    if name == "digits":
        command_line.require_packages("sklearn")
        return
    if download:
        command_line.require_packages("tensorflow_datasets", "importlib_resources")
        return
    folder = _folder(data_dir)
    infos = list((folder / _builder_name(name)).glob("**/dataset_info.json"))
    if not infos:
        raise ValueError(_how_to_prepare(name, folder))
    needed = {split.split("[")[0] for split in _TFDS_SPLITS[name].values()}
    try:
        found = {
            split["name"] for info in infos for split in json.loads(info.read_bytes())["splits"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(name, folder, f"a damaged dataset_info.json ({error})") from error
    if not needed <= found:
        raise ValueError(
            f"Expected the splits {sorted(needed)} of {_builder_name(name)!r} in {folder}; received"
            f" only {sorted(found)}. Please prepare the whole data set with --download, or give "
            "another --dataset."
        )


def _folder(data_dir: str | None) -> pathlib.Path:
    folder = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return files.expanded(folder)


def _builder_name(name: str) -> str:
    return "omniglot" if name == "omniglot_small" else name


def _how_to_prepare(name: str, folder: pathlib.Path) -> str:
    builder_name = _builder_name(name)
    return (
        f"Expected the data set {builder_name!r} prepared by TFDS under {folder / builder_name}; "
        "received none. Please add --download to prepare it there, give the folder that has it "
        'with --data_dir, or run: python -c "import tensorflow_datasets as tfds; '
        f"tfds.load('{builder_name}', data_dir='{folder}')\""
    )


def _damaged(name: str, folder: pathlib.Path, what: str) -> ValueError:
    path = folder / _builder_name(name)
    return ValueError(
        f"Expected the data set {_builder_name(name)!r} whole in {path}; received {what}. Please "
        "delete that folder and prepare the data set again with --download."
    )


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


def _decoded(name: str, folder: pathlib.Path, cache: bool) -> dict[str, np.ndarray]:
    """Of each part the grey images, uint8 [n, 28, 28], and their classes or characters."""
    if not cache:
        return _read(name, folder)
    version = files.fingerprint(folder / _builder_name(name))
    path = files.cache_folder() / f"{name}-{_KEPT}-{version}.npz"
    return files.kept_arrays(path, lambda: _read(name, folder))


def _read(name: str, folder: pathlib.Path) -> dict[str, np.ndarray]:
    """What TFDS prepared, decoded.

    Raises:
        ValueError: files that are missing, damaged, or hold something else.
    """
    command_line.require_packages("tensorflow_datasets", "importlib_resources")
    import tensorflow_datasets as tfds

    if FLAGS.is_parsed() and ("verbose" not in FLAGS or FLAGS.verbose):
        print(f"Reading {name}, which takes a while the first time.", file=sys.stderr, flush=True)
    read_split = _read_omniglot if name.startswith("omniglot") else _read_mnist
    arrays = {}
    try:
        builder = tfds.builder(_builder_name(name), data_dir=str(folder))
        if not builder.is_prepared():
            raise ValueError(f"no version {builder.version}")
        for part, split in _TFDS_SPLITS[name].items():
            images, classes = read_split(builder, split)
            expected = builder.info.splits[split].num_examples
            if len(images) != expected:
                raise ValueError(f"{len(images)} images of {expected} in the split {split}")
            if read_split is _read_mnist and not set(classes) <= set(range(10)):
                raise ValueError(f"labels out of range in the split {split}")
            arrays |= {f"images_{part}": images, f"classes_{part}": classes}
    except MemoryError:
        raise
    except Exception as error:  # TensorFlow, TFDS, protobuf and JSON have errors of their own.
        what = str(error).partition("\n")[0] or type(error).__name__
        raise _damaged(name, folder, f"something that cannot be read ({what[:200]})") from error
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
