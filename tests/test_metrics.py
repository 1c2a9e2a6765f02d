import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_direct_opt.metrics import CodePerplexity, Means


def test_means_are_over_examples_of_unequal_batches():
    means = Means(["a", "b"])
    means.update_state({"a": tf.constant([1.0, 2.0, 6.0]), "b": tf.constant(1.0)}, 3)
    means.update_state({"b": tf.constant(5.0), "a": tf.constant([7.0])}, 1)
    result = means.result()
    assert list(result) == ["a", "b"]
    np.testing.assert_allclose([result["a"], result["b"]], [4.0, 2.0])
    means.reset_state()
    np.testing.assert_array_equal(list(means.result().values()), [0.0, 0.0])


def test_perplexity_counts_the_categories_in_use():
    perplexity = CodePerplexity(2, 4)
    all_used, one_used = np.eye(4), np.tile(np.eye(4)[0], [4, 1])
    perplexity.update_state(np.stack([all_used, all_used], axis=1))
    assert float(perplexity.result()) == pytest.approx(4.0)
    perplexity.reset_state()
    for half in (slice(0, 2), slice(2, 4)):
        perplexity.update_state(np.stack([all_used, one_used], axis=1)[half])
    assert float(perplexity.result()) == pytest.approx((4.0 + 1.0) / 2)


@pytest.mark.parametrize("metric", [Means(["a"]), CodePerplexity(1, 3)])
def test_config_round_trip(metric):
    config = keras.saving.serialize_keras_object(metric)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == metric.get_config()
