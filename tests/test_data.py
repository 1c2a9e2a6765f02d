import json
import os
import pathlib

import data
import numpy as np
import pytest


def require(name):
    folder = pathlib.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    if not (folder / name).is_dir():
        pytest.skip(f"{name} is not prepared under {folder}")


def assert_binary(images, sizes, shape):
    assert [len(images.train), len(images.valid), len(images.test)] == sizes
    assert images.image_shape == shape
    for part in (images.train, images.valid, images.test):
        assert part.dtype == np.uint8
        assert set(np.unique(part)) == {0, 1}


def assert_labelled(images, num_classes):
    """Each part has a label for each image, and all classes."""
    assert images.num_classes == num_classes
    assert set(images.labels) == set(data.PARTS)
    for part, labels in images.labels.items():
        assert labels.shape == getattr(images, part).shape[:1]
        assert labels.dtype == np.int32
        assert set(labels) == set(range(num_classes))


def nearest_mean_accuracy(images):
    """Share of the test images that are nearest to the average training image of their class."""
    train, test = (getattr(images, part).astype(np.float32) for part in ("train", "test"))
    labels = images.labels["train"]
    means = np.stack([train[labels == k].mean(axis=0) for k in range(images.num_classes)])
    flat, test = means.reshape(len(means), -1), test.reshape(len(test), -1)
    distance = (flat**2).sum(axis=1) - 2 * test @ flat.T
    return np.mean(distance.argmin(axis=1) == images.labels["test"])


def test_digits():
    images = data.load("digits")
    assert_binary(images, [1437, 180, 180], (8, 8))
    np.testing.assert_array_equal(images.train, data.load("digits").train)


def test_labels_of_digits():
    images = data.load("digits")
    assert_labelled(images, 10)
    # Labels that went with other images would give 0.1.
    assert nearest_mean_accuracy(images) > 0.8


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "ink"), [("mnist", 0.132), ("fashion_mnist", 0.311)])
def test_mnists(name, ink):
    require(name)
    images = data.load(name)
    assert_binary(images, [50000, 10000, 10000], (28, 28))
    assert images.train.mean() == pytest.approx(ink, abs=5e-3)
    assert_labelled(images, 10)
    # Labels that went with other images would give 0.1.
    assert nearest_mean_accuracy(images) > 0.6


@pytest.mark.real_data
def test_omniglot_small_shares_no_alphabet_with_its_test():
    require("omniglot")
    images = data.load("omniglot_small")
    # small1 has 2720 images; of the 3120 of small2, 480 are Greek and 520 Latin, as in small1.
    assert_binary(images, [2448, 272, 2120], (28, 28))
    assert 0.05 < images.train.mean() < 0.1
    known = {image.tobytes() for image in np.concatenate([images.train, images.valid])}
    assert not known & {image.tobytes() for image in images.test}
    # Alphabets that the parts do not share are no classes to learn.
    assert (images.labels, images.num_classes) == ({}, 0)


def test_omniglot_without_its_official_splits_is_a_clear_error(tmp_path):
    info = tmp_path / "omniglot/3.0.0/dataset_info.json"
    info.parent.mkdir(parents=True)
    info.write_text(json.dumps({"splits": [{"name": "small1"}, {"name": "small2"}]}))
    with pytest.raises(
        ValueError, match=r"Expected the splits \['test', 'train'\] of 'omniglot'.*small1"
    ):
        data.load("omniglot", data_dir=str(tmp_path))


def test_unknown_name():
    with pytest.raises(ValueError, match=r"Expected a data set in .* received 'cifar'"):
        data.load("cifar")


@pytest.mark.parametrize("name", ["mnist", "omniglot_small"])
def test_missing_data_says_what_where_and_how(tmp_path, name):
    with pytest.raises(ValueError, match="Expected the data set") as error:
        data.load(name, data_dir=str(tmp_path))
    message = str(error.value)
    builder = "omniglot" if name == "omniglot_small" else name
    for part in (str(tmp_path / builder), "--download", "--data_dir", f"tfds.load('{builder}'"):
        assert part in message
