import numpy as np
import pytest
import tensorflow as tf

from tf_direct_opt.runs import few_labels
from tf_direct_opt.runs.few_labels import Distortion
from tf_direct_opt.runs.images import PARTS, Images

SIZE = 5


def images_of(sizes=(23, 4, 7), num_classes=3):
    """Images that are all different, the class of each and its place in its part.

    An image is read back by `numbers`: pixels 1 to 3 of the first rows spell the number in binary.
    """
    parts, labels = {}, {}
    for part, count in zip(PARTS, sizes, strict=True):
        bits = (np.arange(count)[:, np.newaxis] >> np.arange(9)) & 1
        parts[part] = np.zeros([count, SIZE, SIZE], np.uint8)
        parts[part][:, 1:4, 1:4] = bits.reshape(count, 3, 3)
        labels[part] = (np.arange(count, dtype=np.int32) * 7 // 2) % num_classes
    return Images("numbered", **parts, labels=labels)


def numbers(images):
    """The numbers of images that were not moved."""
    assert not np.any(np.delete(images, slice(1, 4), axis=1))
    assert not np.any(np.delete(images, slice(1, 4), axis=2))
    bits = images[:, 1:4, 1:4].reshape(len(images), 9).astype(int)
    return bits @ (1 << np.arange(9))


def make_feed(batch_size=8, num_labelled=3, seed=5, **config):
    labelled = np.array([2, 3, 11, 17, 20])
    return few_labels.FewLabelsFeed(images_of(), labelled, batch_size, num_labelled, seed, **config)


def drawn(feed, first, last):
    """Images [epochs, steps, B, height, width] and labels [epochs, steps, B] of some epochs."""
    images, labels = zip(*feed.training(first, last).as_numpy_iterator(), strict=True)
    shape = (last - first, feed.steps)
    return tuple(np.stack(part).reshape(*shape, *part[0].shape) for part in (images, labels))


# Which images have labels.


def test_labelled_subset_is_balanced_and_decided_by_its_seed():
    labels = np.random.default_rng(0).integers(0, 4, 200)
    subset = few_labels.labelled_subset(labels, 40, seed=1)
    assert subset.shape == (40,)
    assert np.all(np.diff(subset) > 0)  # Sorted, none of them twice.
    np.testing.assert_array_equal(np.bincount(labels[subset]), [10, 10, 10, 10])
    np.testing.assert_array_equal(subset, few_labels.labelled_subset(labels, 40, seed=1))
    assert np.any(subset != few_labels.labelled_subset(labels, 40, seed=2))


def test_labelled_subset_may_be_everything():
    labels = np.arange(12) % 3
    np.testing.assert_array_equal(few_labels.labelled_subset(labels, 12, seed=0), range(12))


@pytest.mark.parametrize(
    ("num_labels", "message"),
    [
        (0, "Expected from 1 to 9 labels, the training images; received 0"),
        (-3, "Expected from 1 to 9 labels"),
        (12, "Expected from 1 to 9 labels, the training images; received 12"),
        (4, "Expected a number of labels that the 3 classes divide.* received 4"),
        (9, r"Expected 3 labelled images of each class; received 2 of class 1\. Please ask"),
    ],
)
def test_labelled_subset_out_of_range(num_labels, message):
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    with pytest.raises(ValueError, match=message):
        few_labels.labelled_subset(labels, num_labels, seed=0)


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


@pytest.mark.parametrize("num_labelled", [3, 8])
def test_a_resumed_run_gets_the_batches_of_the_uninterrupted_one(num_labelled):
    config = {"num_labelled": num_labelled, "distortion": Distortion(shift=2.0, rotation=20.0)}
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


def test_labelled_images_are_distorted_and_no_others():
    still_images, still_labels = drawn(make_feed(), 0, 3)
    images, labels = drawn(make_feed(distortion=Distortion(shift=2.0)), 0, 3)
    np.testing.assert_array_equal(labels, still_labels)
    np.testing.assert_array_equal(images[:, :, :5], still_images[:, :, :5])
    assert np.any(images[:, :, 5:] != still_images[:, :, 5:])
    assert set(np.unique(images)) == {0.0, 1.0}


def test_labels_are_drawn_from_seeds_of_their_own():
    # The noise of step 3 and the order of epoch 3 are drawn from (seed, 3).
    images, _ = drawn(make_feed(), 0, 3)
    others = [tf.random.stateless_uniform([3], [5, step], 0, 5, tf.int32) for step in range(12)]
    known = numbers(images[:, :, 5:].reshape(-1, SIZE, SIZE)).reshape(12, 3)
    # Each of the 12 is the other one with a probability of 1 in 125.
    assert np.all(known == make_feed().labelled[np.stack(others)], axis=1).sum() <= 2


def test_each_step_distorts_in_another_way():
    feed = make_feed(distortion=Distortion(shift=2.0))
    feed.labelled = np.array([20])  # All that differs is the distortion.
    images, _ = drawn(feed, 0, 3)
    assert len(np.unique(images[:, :, 5:].reshape(12, -1), axis=0)) > 6


def test_evaluation_is_a_part_in_order_with_its_labels():
    feed = make_feed(distortion=Distortion(shift=2.0))
    for part in PARTS:
        images, labels = zip(*feed.evaluation(part).as_numpy_iterator(), strict=True)
        np.testing.assert_array_equal(np.concatenate(images), getattr(feed.images, part))
        np.testing.assert_array_equal(np.concatenate(labels), feed.images.labels[part])


def test_number_of_labelled_images_out_of_range():
    for number in (0, 9):
        message = f"Expected from 1 to 8 labelled images a batch; received {number}"
        with pytest.raises(ValueError, match=message):
            make_feed(num_labelled=number)


def test_more_images_a_batch_than_there_are_is_refused():
    with pytest.raises(ValueError, match="Expected a batch size from 1 to the 23 training images"):
        make_feed(batch_size=30).training(0, 1)


# Distortion. A shape in the middle of 400 images of 31 x 31 pixels tells by its moments what was
# done to it. Each draw reaches beyond three quarters of its limit, on either side, but for one set
# of seeds in 10^22.

MIDDLE = 15


def distorted(height, width, seed=(1, 2), **limits):
    """A height x width block, distorted 400 times, and where it is: pixels, x and y."""
    image = np.zeros([31, 31], np.float32)
    y, x = (slice(MIDDLE - size // 2, MIDDLE + size // 2 + 1) for size in (height, width))
    image[y, x] = 1.0
    moved = Distortion(**limits)(tf.constant(np.tile(image, [400, 1, 1])), tf.constant(seed))
    assert moved.shape == (400, 31, 31)
    assert set(np.unique(moved)) == {0.0, 1.0}
    return moved.numpy()


def moments(images):
    """Centre (x, y) against the middle, [B, 2], and covariance of the ink, [B, 2, 2]."""
    y, x = np.mgrid[:31, :31] - MIDDLE
    share = images / images.sum(axis=(1, 2), keepdims=True)
    places = np.stack([x, y], axis=-1)
    centre = np.einsum("byx,yxi->bi", share, places)
    second = np.einsum("byx,yxi,yxj->bij", share, places, places)
    return centre, second - centre[:, :, np.newaxis] * centre[:, np.newaxis]


def assert_fills(values, limit, tolerance):
    """Between minus the limit and the limit, nearly all the way."""
    assert np.abs(values).max() <= limit + tolerance
    assert values.min() < -0.75 * limit
    assert values.max() > 0.75 * limit


def test_no_distortion_is_none():
    image = tf.random.stateless_uniform([2, 4, 5], [0, 0])
    np.testing.assert_array_equal(Distortion()(image, tf.constant([1, 2])), image)


def test_shift_moves_each_image_in_both_directions():
    images = distorted(9, 9, shift=4.0)
    centre, _ = moments(images)
    for axis in (0, 1):
        assert_fills(centre[:, axis], 4.0, 0.5)
    # Independently: of 400 a correlation beyond 0.25 is one in two million.
    assert abs(np.corrcoef(centre.T)[0, 1]) < 0.25
    np.testing.assert_allclose(images.sum(axis=(1, 2)), 81, atol=20)
    np.testing.assert_array_equal(images, distorted(9, 9, shift=4.0))
    assert np.any(images != distorted(9, 9, shift=4.0, seed=(1, 3)))


def test_rotation_turns_about_the_middle():
    centre, second = moments(distorted(5, 25, rotation=30.0))
    np.testing.assert_allclose(centre, 0.0, atol=0.3)
    angle = 0.5 * np.arctan2(2 * second[:, 0, 1], second[:, 0, 0] - second[:, 1, 1])
    assert_fills(np.degrees(angle), 30.0, 1.5)
    # The block keeps its shape: variances of (5^2 - 1) / 12 and (25^2 - 1) / 12.
    variances = np.linalg.eigvalsh(second)
    np.testing.assert_allclose(variances, np.tile([2.0, 52.0], [400, 1]), rtol=0.15)


def test_zoom_changes_height_and_width():
    centre, second = moments(distorted(15, 15, zoom=0.4))
    np.testing.assert_allclose(centre, 0.0, atol=0.3)
    # A block of s pixels has a variance of (s^2 - 1) / 12 along its side; it is read at zoom times
    # the distance from the middle.
    zoom = 15 / np.sqrt(12 * second[:, [0, 1], [0, 1]] + 1)
    for axis in (0, 1):
        # A zoom of 0.6 makes 25 pixels of 15, and one pixel more or less is 4 %.
        assert_fills(zoom[:, axis] - 1.0, 0.4, 0.07)
    assert abs(np.corrcoef(zoom.T)[0, 1]) < 0.25


def test_shear_moves_rows_along_themselves():
    images = distorted(21, 5, shear=0.3)
    np.testing.assert_array_equal(images.any(axis=2).sum(axis=1), 21)
    _, second = moments(images)
    assert_fills(second[:, 0, 1] / second[:, 1, 1], 0.3, 0.02)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"shift": -1.0}, "Expected a shift of at least 0; received -1.0"),
        ({"rotation": -5.0}, "Expected a rotation of at least 0"),
        ({"shear": -0.1}, "Expected a shear of at least 0"),
        ({"zoom": 1.0}, "Expected a zoom below 1; received 1.0"),
    ],
)
def test_distortion_out_of_range(limits, message):
    with pytest.raises(ValueError, match=message):
        Distortion(**limits)
