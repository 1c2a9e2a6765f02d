import json
import os
import pathlib
import shutil

import data
import numpy as np
import pytest

from tf_direct_opt import files
from tf_direct_opt.runs.images import PARTS


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
    assert set(images.labels) == set(PARTS)
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


def test_grey_pixels_and_those_drawn_from_them():
    threshold, grey, drawn = (
        data.load("digits", binarize=how) for how in ("threshold", "none", "bernoulli")
    )
    for part in PARTS:
        pixels = getattr(grey, part)
        assert pixels.dtype == np.float32
        np.testing.assert_array_equal(pixels > 0.5, getattr(threshold, part))
    assert not grey.redrawn
    assert drawn.redrawn
    np.testing.assert_array_equal(drawn.train, grey.train)
    np.testing.assert_array_equal(drawn.test, data.load("digits", binarize="bernoulli").test)
    # Ink as expected, within 4 standard errors: fails for 1 set of seeds in 16,000.
    assert set(np.unique(drawn.test)) == {0, 1}
    error = np.sqrt(np.sum(grey.test * (1 - grey.test)))
    assert abs(drawn.test.sum() - grey.test.sum()) <= 4 * error


def test_number_of_training_images():
    images = data.load("digits")
    few, many = images.with_num_train(100), images.with_num_train(1500)
    np.testing.assert_array_equal(few.train, images.train[:100])
    np.testing.assert_array_equal(many.train[1437:], images.valid[:63])
    np.testing.assert_array_equal(many.labels["train"][1437:], images.labels["valid"][:63])
    np.testing.assert_array_equal(many.valid, images.valid)
    with pytest.raises(ValueError, match=r"Expected at most the 1617 .* received 1618"):
        images.with_num_train(1618)


def test_labels_of_digits():
    images = data.load("digits")
    assert_labelled(images, 10)
    # Labels that went with other images would give 0.1.
    assert nearest_mean_accuracy(images) > 0.8


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "ink"),
    [("mnist", 0.132), pytest.param("fashion_mnist", 0.311, marks=pytest.mark.slow)],
)
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
    # small1 has 136 characters, 20 times each, of which 13 are held out; of the 3120 images of
    # small2, 480 are Greek and 520 Latin, as in small1.
    assert_binary(images, [2460, 260, 2120], (28, 28))
    assert 0.05 < images.train.mean() < 0.1
    known = {image.tobytes() for image in np.concatenate([images.train, images.valid])}
    assert not known & {image.tobytes() for image in images.test}
    # Alphabets that the parts do not share are no classes to learn.
    assert (images.labels, images.num_classes) == ({}, 0)


def test_omniglots_characters_and_alphabets_stay_apart():
    # Alphabets 1 to 4 of five characters, each drawn twice; 3 is in both parts, 4 in test alone.
    characters = {
        "train": np.tile([100 * a + c for a in (1, 2, 3) for c in range(5)], 2),
        "test": np.tile([100 * a + c for a in (3, 4) for c in range(5)], 2),
    }
    parts = data._disjoint(characters, characters)
    assert set(parts["valid"]) == {204}  # The tenth of fifteen.
    assert len(parts["valid"]) == 2
    assert set(parts["train"]) == set(characters["train"]) - {204}
    assert set(parts["test"]) == {400, 401, 402, 403, 404}


def test_omniglot_without_its_official_splits_is_a_clear_error(tmp_path):
    info = tmp_path / "omniglot/3.0.0/dataset_info.json"
    info.parent.mkdir(parents=True)
    info.write_text(json.dumps({"splits": [{"name": "small1"}, {"name": "small2"}]}))
    with pytest.raises(
        ValueError, match=r"Expected the splits \['test', 'train'\] of 'omniglot'.*small1"
    ):
        data.load("omniglot", data_dir=str(tmp_path))


# What TFDS prepares, in little, and what can happen to it.


def store(folder, num_classes=10):
    """Prepares 40 and 20 images under the name of MNIST, the class of image i being i."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    def examples(count):
        label = np.arange(count) % num_classes
        image = np.random.default_rng(count).integers(0, 256, [count, 28, 28, 1], np.uint8)
        return tf.data.Dataset.from_tensor_slices({"image": image, "label": label})

    features = {
        "image": tfds.features.Image(shape=(28, 28, 1)),
        "label": tfds.features.ClassLabel(num_classes=num_classes),
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        name="mnist",
        version="3.0.1",
        data_dir=folder,
        split_datasets={"train": examples(40), "test": examples(20)},
        features=tfds.features.FeaturesDict(features),
        disable_shuffling=True,
    )


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    store(folder)
    return folder


@pytest.fixture
def prepared(stored, tmp_path, monkeypatch):
    """A copy of the small MNIST, a cache folder of its own, and the splits cut to size."""
    splits = {"train": "train[:75%]", "valid": "train[75%:]", "test": "test"}
    monkeypatch.setitem(data._TFDS_SPLITS, "mnist", splits)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return shutil.copytree(stored, tmp_path / "tfds")


def load(folder, **options):
    return data.load("mnist", data_dir=str(folder), **options)


def kept_files():
    return sorted(files.cache_folder().glob("*"))


def test_what_was_decoded_is_kept_and_is_the_same(prepared):
    decoded = load(prepared, cache=False)
    assert_binary(decoded, [30, 10, 20], (28, 28))
    np.testing.assert_array_equal(decoded.labels["train"], np.arange(30) % 10)
    grey = np.random.default_rng(20).integers(0, 256, [20, 28, 28], np.uint8)
    np.testing.assert_array_equal(decoded.test, grey > 127.5)
    assert kept_files() == []
    made, kept = load(prepared), load(prepared)
    (path,) = kept_files()
    for images in (made, kept):
        for part in PARTS:
            np.testing.assert_array_equal(getattr(images, part), getattr(decoded, part))
            np.testing.assert_array_equal(images.labels[part], decoded.labels[part])
    # It is what is read: another file under its name gives other images.
    with np.load(path) as arrays:
        other = {name: np.zeros_like(array) for name, array in arrays.items()}
    np.savez(path, **other)
    assert load(prepared).train.max() == 0
    assert load(prepared, cache=False).train.max() == 1


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_kept_file_is_made_again(prepared, damage):
    decoded = load(prepared)
    (path,) = kept_files()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    np.testing.assert_array_equal(load(prepared).train, decoded.train)
    assert path.read_bytes()[:2] == b"PK"


def test_other_prepared_files_are_decoded_anew(prepared):
    load(prepared)
    (record,) = prepared.rglob("*train.tfrecord*")
    os.utime(record, ns=(1, 1))
    load(prepared)
    assert len(kept_files()) == 2


def test_a_cache_folder_that_cannot_be_written_is_no_error(prepared, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    assert len(load(prepared).train) == 30


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("*train.tfrecord*", "cut"),
        ("*train.tfrecord*", "flipped"),
        ("*train.tfrecord*", "emptied"),
        ("*train.tfrecord*", "deleted"),
        ("dataset_info.json", "cut"),
        ("dataset_info.json", "emptied"),
    ],
)
def test_damaged_data_is_a_clear_error(prepared, name, damage):
    (path,) = prepared.rglob(name)
    whole = path.read_bytes()
    half = len(whole) // 2
    if damage == "deleted":
        path.unlink()
    elif damage == "flipped":
        path.write_bytes(whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :])
    else:
        path.write_bytes(whole[:half] if damage == "cut" else b"")
    with pytest.raises(ValueError, match=r"Expected the data set 'mnist' whole in .* delete"):
        load(prepared)
    assert kept_files() == []


def test_labels_out_of_range_are_a_clear_error(prepared):
    shutil.rmtree(prepared / "mnist")
    store(prepared, num_classes=13)
    with pytest.raises(ValueError, match="labels out of range"):
        load(prepared)


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
