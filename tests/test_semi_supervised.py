import data
import numpy as np
import pytest
import semi_supervised

SIZE = 5


def images_of(sizes=(23, 4, 7), num_classes=3):
    """Images that are all different, the class of each and its place in its part.

    An image is read back by `numbers`: pixels 1 to 3 of the first rows spell the number in binary.
    """
    parts, labels = {}, {}
    for part, count in zip(data.PARTS, sizes, strict=True):
        bits = (np.arange(count)[:, np.newaxis] >> np.arange(9)) & 1
        parts[part] = np.zeros([count, SIZE, SIZE], np.uint8)
        parts[part][:, 1:4, 1:4] = bits.reshape(count, 3, 3)
        labels[part] = (np.arange(count, dtype=np.int32) * 7 // 2) % num_classes
    return data.Images("numbered", **parts, labels=labels)


def numbers(images):
    """The numbers of images that were not moved."""
    assert not np.any(np.delete(images, slice(1, 4), axis=1))
    assert not np.any(np.delete(images, slice(1, 4), axis=2))
    bits = images[:, 1:4, 1:4].reshape(len(images), 9).astype(int)
    return bits @ (1 << np.arange(9))


def make_feed(batch_size=8, num_labelled=3, seed=5, **config):
    labelled = np.array([2, 3, 11, 17, 20])
    return semi_supervised.SemiSupervisedFeed(
        images_of(), labelled, batch_size, num_labelled, seed, **config
    )


def drawn(feed, first, last):
    """Images [epochs, steps, B, height, width] and labels [epochs, steps, B] of some epochs."""
    images, labels = zip(*feed.training(first, last).as_numpy_iterator(), strict=True)
    shape = (last - first, feed.steps)
    return tuple(np.stack(part).reshape(*shape, *part[0].shape) for part in (images, labels))


# Which images have labels.


def test_labelled_subset_is_balanced_and_decided_by_its_seed():
    labels = np.random.default_rng(0).integers(0, 4, 200)
    subset = semi_supervised.labelled_subset(labels, 40, seed=1)
    assert subset.shape == (40,)
    assert np.all(np.diff(subset) > 0)  # Sorted, none of them twice.
    np.testing.assert_array_equal(np.bincount(labels[subset]), [10, 10, 10, 10])
    np.testing.assert_array_equal(subset, semi_supervised.labelled_subset(labels, 40, seed=1))
    assert np.any(subset != semi_supervised.labelled_subset(labels, 40, seed=2))


def test_labelled_subset_may_be_everything():
    labels = np.arange(12) % 3
    np.testing.assert_array_equal(semi_supervised.labelled_subset(labels, 12, seed=0), range(12))


@pytest.mark.parametrize(
    ("num_labels", "message"),
    [
        (0, "Expected from 1 to 9 labels, the training images; received 0"),
        (-3, "Expected from 1 to 9 labels"),
        (12, "Expected from 1 to 9 labels, the training images; received 12"),
        (4, "Expected a number of labels that the 3 classes divide.* received 4"),
        (9, r"Expected 3 labelled images of each class; class 1 has 2\. Please ask for fewer"),
    ],
)
def test_labelled_subset_out_of_range(num_labels, message):
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    with pytest.raises(ValueError, match=message):
        semi_supervised.labelled_subset(labels, num_labels, seed=0)


# Batches.


def test_batches_are_images_without_labels_and_then_labelled_ones():
    feed = make_feed()
    assert feed.steps == 23 // 5
    spec = feed.training(0, 2).element_spec
    assert [tuple(part.shape) for part in spec] == [(8, SIZE, SIZE), (8,)]
    images, labels = drawn(feed, 0, 3)
    assert images.shape == (3, 4, 8, SIZE, SIZE)
    np.testing.assert_array_equal(labels[:, :, :5], -1)
    for epoch in images:
        # Each once, but for the 3 that are left over.
        assert len(np.unique(numbers(epoch[:, :5].reshape(-1, SIZE, SIZE)))) == 20
    known, known_labels = numbers(images[:, :, 5:].reshape(-1, SIZE, SIZE)), labels[:, :, 5:]
    # 36 draws from 5: that one of them never comes up has a probability of 1 in 600.
    assert set(known) == set(feed.labelled)
    np.testing.assert_array_equal(known_labels.reshape(-1), feed.images.labels["train"][known])
    # None of the batches is like the one before.
    assert len(np.unique(known.reshape(12, 3), axis=0)) > 6


@pytest.mark.parametrize("config", [{"max_shift": 2}, {"num_labelled": 8, "max_shift": 2}])
def test_a_resumed_run_gets_the_batches_of_the_uninterrupted_one(config):
    whole = drawn(make_feed(**config), 0, 4)
    for resumed, part in zip(drawn(make_feed(**config), 2, 4), whole, strict=True):
        np.testing.assert_array_equal(resumed, part[2:])
    again = drawn(make_feed(**config), 0, 4)
    other = drawn(make_feed(seed=6, **config), 0, 4)
    for i, part in enumerate(whole):
        np.testing.assert_array_equal(again[i], part)
        assert np.any(other[i] != part)


def test_all_labelled():
    feed = make_feed(num_labelled=8)
    assert feed.steps == 23 // 8
    images, labels = drawn(feed, 0, 5)
    assert images.shape == (5, 2, 8, SIZE, SIZE)
    known = numbers(images.reshape(-1, SIZE, SIZE))
    # 80 draws from 5: one of them is missing with a probability of 1 in ten million.
    assert set(known) == set(feed.labelled)
    np.testing.assert_array_equal(labels.reshape(-1), feed.images.labels["train"][known])


@pytest.mark.parametrize("max_shift", [1, 2])
def test_labelled_images_are_moved_and_no_others(max_shift):
    still_images, still_labels = drawn(make_feed(), 0, 20)
    images, labels = drawn(make_feed(max_shift=max_shift), 0, 20)
    np.testing.assert_array_equal(labels, still_labels)
    np.testing.assert_array_equal(images[:, :, :5], still_images[:, :, :5])
    padded = np.pad(still_images[:, :, 5:], [(0, 0)] * 3 + [(max_shift, max_shift)] * 2)
    seen = set()
    for moved, source in zip(
        images[:, :, 5:].reshape(80, 3, SIZE, SIZE),
        padded.reshape(80, 3, *padded.shape[3:]),
        strict=True,
    ):
        matches = {
            (i, j)
            for i in range(2 * max_shift + 1)
            for j in range(2 * max_shift + 1)
            if np.array_equal(moved, source[:, i : i + SIZE, j : j + SIZE])
        }
        assert matches  # By no more than it may.
        if len(matches) == 1:  # Images with few pixels leave it open by how much.
            seen |= matches
    # Of 80 draws from 9 or 25 places each row and each column is among those that were told apart.
    for axis in (0, 1):
        assert {place[axis] for place in seen} == set(range(2 * max_shift + 1))


def test_evaluation_is_a_part_in_order_with_its_labels():
    feed = make_feed(max_shift=2)
    for part in data.PARTS:
        images, labels = zip(*feed.evaluation(part).as_numpy_iterator(), strict=True)
        np.testing.assert_array_equal(np.concatenate(images), getattr(feed.images, part))
        np.testing.assert_array_equal(np.concatenate(labels), feed.images.labels[part])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_labelled": 0}, "Expected from 1 to 8 labelled images a batch; received 0"),
        ({"num_labelled": 9}, "Expected from 1 to 8 labelled images a batch; received 9"),
        ({"max_shift": -1}, r"Expected to move images of \(5, 5\) by 0 or more .* received -1"),
        ({"max_shift": 5}, "less than their size; received 5"),
    ],
)
def test_arguments_out_of_range(config, message):
    with pytest.raises(ValueError, match=message):
        make_feed(**config)


def test_more_images_a_batch_than_there_are_is_refused():
    with pytest.raises(ValueError, match="Expected a batch size from 1 to the 23 training images"):
        make_feed(batch_size=30).training(0, 1)
