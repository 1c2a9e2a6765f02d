import numpy as np
import pytest
from replicas import two_replicas

from tf_direct_opt.runs import batches


def epochs_of(first, last, seed=3, batch_size=4):
    numbered = np.arange(10, dtype=np.uint8).reshape(10, 1, 1)
    dataset = batches.training_batches(numbered, batch_size, seed, first, last)
    flat = np.array([batch.numpy().reshape(-1) for batch in dataset])
    return flat.reshape(last - first, 10 // batch_size, batch_size)


def test_batches_are_shuffled_by_epoch_and_resume_where_they_left():
    whole = epochs_of(0, 6)
    assert whole.shape == (6, 2, 4)
    for epoch in whole:
        assert len(np.unique(epoch)) == 8
    assert len(np.unique(whole.reshape(6, -1), axis=0)) == 6
    assert set(whole.reshape(-1)) == set(range(10))
    np.testing.assert_array_equal(epochs_of(4, 6), whole[4:])
    np.testing.assert_array_equal(epochs_of(0, 6), whole)
    assert np.any(epochs_of(0, 6, seed=4) != whole)


def test_redrawn_bits_are_a_function_of_the_epoch():
    # 40 images of 50 pixels in 6 epochs: shares within 4 standard errors, three of them.
    shares = np.array([0.0, 0.3, 0.9], np.float32)
    grey = np.broadcast_to(shares, [40, 50, 3])

    def epochs(first, last):
        drawn = batches.training_batches(grey, 10, 3, first, last, redrawn=True)
        return np.stack(list(drawn.as_numpy_iterator())).reshape(last - first, 40, 50, 3)

    whole = epochs(0, 6)
    assert set(np.unique(whole)) == {0.0, 1.0}
    errors = np.sqrt(shares * (1 - shares) / (6 * 40 * 50))
    assert np.all(np.abs(whole.mean(axis=(0, 1, 2)) - shares) <= 4 * errors)
    np.testing.assert_array_equal(epochs(4, 6), whole[4:])
    # Epochs, and images of one epoch, differ: 0.3 * 0.7 * 2 of the pixels do, in the mean.
    for one, other in ((whole[0], whole[1]), (whole[0, 0], whole[0, 1])):
        assert np.mean(one[..., 1] != other[..., 1]) > 0.2


@pytest.mark.parametrize("batch_size", [0, 11])
def test_batch_size_out_of_range(batch_size):
    with pytest.raises(ValueError, match="Expected a batch size from 1 to the 10 training images"):
        epochs_of(0, 1, batch_size=batch_size)


def test_evaluation_batches_are_all_images_in_order():
    images = np.random.default_rng(0).integers(0, 2, [23, 2, 2], np.uint8)
    parts = [batch.numpy() for batch in batches.evaluation_batches(images, batch_size=10)]
    assert [len(part) for part in parts] == [10, 10, 3]
    np.testing.assert_array_equal(np.concatenate(parts), images)


def test_two_replicas_share_each_batch():
    numbered = np.arange(10, dtype=np.uint8).reshape(10, 1, 1)
    strategy = two_replicas()
    dataset = batches.training_batches(numbered, 4, 3, 0, 2)
    parts = [
        np.array(strategy.experimental_local_results(batch)).reshape(2, 2)
        for batch in strategy.experimental_distribute_dataset(dataset)
    ]
    np.testing.assert_array_equal(np.reshape(parts, [2, 2, 4]), epochs_of(0, 2))
