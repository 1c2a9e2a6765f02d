"""Colour images for the examples: patches of photographs, or any set of images of TFDS.

TensorFlow is imported by what needs it only: whether a data set is there is said at once.
"""

import numpy as np
from absl import flags

from tf_direct_opt.runs import command_line
from tf_direct_opt.runs.images import PARTS, Images
from tf_direct_opt.runs.prepared import Prepared

FLAGS = flags.FLAGS

PHOTOGRAPHS = "sample_images"

flags.DEFINE_string(
    "dataset",
    PHOTOGRAPHS,
    "sample_images: patches of scikit-learn's two photographs. Otherwise the TFDS name of images "
    "of one size with the splits train and test: cifar10, svhn_cropped, ...",
)
flags.DEFINE_integer("patch_size", 32, "Height and width of the patches.", lower_bound=4)
flags.DEFINE_string("data_dir", None, "TFDS folder [$TFDS_DATA_DIR or ~/tensorflow_datasets].")
flags.DEFINE_bool("download", False, "Let TFDS download and prepare a missing data set.")
flags.DEFINE_integer("num_train", None, "Training images, the first ones [all].", lower_bound=1)


def check_flags() -> None:
    """Raises the ValueError of `from_flags` for missing data, in a fraction of a second."""
    name = FLAGS.dataset
    if name == PHOTOGRAPHS:
        command_line.require_packages("sklearn", "PIL")
        if FLAGS.patch_size > 64:
            raise ValueError(
                f"Expected --patch_size of at most 64, a tenth of a photograph; received "
                f"{FLAGS.patch_size}. Please give fewer pixels."
            )
        return
    _prepared().check(("train", "test"))


def from_flags() -> Images:
    """The images [n, height, width, channels], float32 k / 255 for k = 0..255, in three parts."""
    if FLAGS.dataset == PHOTOGRAPHS:
        parts = photographs(FLAGS.patch_size)
    else:
        parts = _prepared().kept(f"{FLAGS.dataset}-colour", prepared_bytes)
    images = Images(FLAGS.dataset, *(parts[part] / np.float32(255) for part in PARTS))
    return images if FLAGS.num_train is None else images.with_num_train(FLAGS.num_train)


def photographs(size: int) -> dict[str, np.ndarray]:
    """Patches of two photographs, a temple and a flower: bytes [n, size, size, 3].

    Four fifths of each, from the left, are for training, in patches that overlap by three quarters;
    the patches of the rest have no pixel in common, and are for validation and test in turn.
    """
    import sklearn.datasets

    found: dict[str, list[np.ndarray]] = {part: [] for part in PARTS}
    for photograph in sklearn.datasets.load_sample_images().images:
        border = photograph.shape[1] * 4 // 5
        found["train"].append(_patches(photograph[:, :border], size, size // 4))
        rest = _patches(photograph[:, border:], size, size)
        found["valid"].append(rest[::2])
        found["test"].append(rest[1::2])
    shuffle = np.random.default_rng(0).permutation  # A few of them are of both.
    return {part: shuffle(np.concatenate(patches)) for part, patches in found.items()}


def _patches(photograph: np.ndarray, size: int, stride: int) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(photograph, (size, size), axis=(0, 1))
    chosen = np.moveaxis(windows[::stride, ::stride], 2, -1)  # Channels last again.
    return np.ascontiguousarray(chosen.reshape(-1, size, size, photograph.shape[2]))


def prepared_bytes() -> dict[str, np.ndarray]:
    """What TFDS has of --dataset, as bytes; the last tenth of train is for validation.

    Raises:
        ValueError: no images of one size, or other splits.
    """
    prepared = _prepared()
    builder = prepared.builder()
    image = dict(builder.info.features.items()).get("image")
    of_bytes = (
        image is not None
        and None not in image.shape
        and image.shape[-1] in (1, 3)
        and np.dtype(image.np_dtype) == np.uint8
    )
    if not of_bytes or not {"train", "test"} <= set(builder.info.splits):
        raise ValueError(
            f"Expected images of one size in --dataset={prepared.name}, bytes of 1 or 3 channels, "
            f"with the splits train and test; received {image} in {sorted(builder.info.splits)}. "
            "Please give another one."
        )
    splits = {"train": "train[:90%]", "valid": "train[90%:]", "test": "test"}
    with prepared.readable():
        return {
            part: builder.as_dataset(split=split, batch_size=-1)["image"].numpy()
            for part, split in splits.items()
        }


def _prepared() -> Prepared:
    return Prepared(FLAGS.dataset, FLAGS.data_dir, FLAGS.download)
