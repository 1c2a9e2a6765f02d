import keras
import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf

from tf_direct_opt.metrics import CodePerplexity, ConfusionMatrix, Means


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


def test_confusion_matrix_counts_what_has_a_label():
    generator = np.random.default_rng(0)
    labels, logits = generator.integers(-1, 3, 60), generator.normal(size=[60, 3])
    confusion = ConfusionMatrix(3)
    assert float(confusion.result()) == 0.0
    for part in (slice(0, 20), slice(20, 60)):
        confusion.update_state(tf.constant(labels[part]), tf.constant(logits[part], tf.float32))
    known, taken_for = labels[labels >= 0], logits.argmax(axis=1)[labels >= 0]
    assert 30 < len(known) < 60
    expected = sklearn.metrics.confusion_matrix(known, taken_for)
    np.testing.assert_array_equal(confusion.counts, expected)
    assert float(confusion.result()) == pytest.approx(np.mean(known == taken_for))
    confusion.reset_state()
    np.testing.assert_array_equal(confusion.counts, np.zeros([3, 3]))


def test_accuracy_of_no_labels_is_zero_and_not_nan():
    confusion = ConfusionMatrix(2)
    confusion.update_state(tf.constant([-1, -1]), tf.eye(2))
    assert float(confusion.result()) == 0.0


def test_confusion_matrix_has_a_row_for_each_class():
    confusion = ConfusionMatrix(3)
    # Class 2 was taken for class 0.
    confusion.update_state(tf.constant([2]), tf.constant([[1.0, 0.0, 0.0]]))
    np.testing.assert_array_equal(confusion.counts, [[0, 0, 0], [0, 0, 0], [1, 0, 0]])


@pytest.mark.parametrize("metric", [Means(["a"]), CodePerplexity(1, 3), ConfusionMatrix(3)])
def test_config_round_trip(metric):
    config = keras.saving.serialize_keras_object(metric)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == metric.get_config()
