"""Metrics that cost next to nothing in a step, and what a plain mean cannot express."""

import keras
import tensorflow as tf

from tf_direct_opt.labels import checked_labels


@keras.saving.register_keras_serializable("tf_direct_opt")
class Means(keras.metrics.Metric):
    """Means over examples of several named quantities, reported under their own names.

    One `keras.metrics.Mean` each would do the same, but at two variables and some ten operations
    apiece they came to a tenth of a whole training step; this is one variable and one addition.

    Args:
        quantities: their names, in the order they are reported.
    """

    def __init__(self, quantities, name="means", **kwargs):
        super().__init__(name=name, **kwargs)
        self.quantities = tuple(quantities)
        self.totals = self.add_variable(
            shape=(len(self.quantities) + 1,), initializer="zeros", name="totals"
        )

    def update_state(
        self,
        values: dict,  # name -> [] or [B]
        batch: tf.Tensor,  # []
    ):
        """Adds a batch of `batch` examples; a scalar counts for each of them."""
        count = tf.cast(batch, tf.float32)
        wide = [tf.cast(values[name], tf.float32) for name in self.quantities]
        sums = [tf.reduce_sum(value) if value.shape.rank else value * count for value in wide]
        self.totals.assign_add(tf.stack([*sums, count]))

    @property
    def num_examples(self) -> tf.Tensor:
        """Examples seen since the last reset, on this replica: int32."""
        return tf.cast(tf.convert_to_tensor(self.totals)[-1], tf.int32)

    def result(self):
        totals = tf.convert_to_tensor(self.totals)
        means = tf.math.divide_no_nan(totals[:-1], totals[-1])
        return dict(zip(self.quantities, tf.unstack(means), strict=True))

    def get_config(self):
        return {**super().get_config(), "quantities": list(self.quantities)}


@keras.saving.register_keras_serializable("tf_direct_opt")
class CodePerplexity(keras.metrics.Metric):
    """Effective number of categories in use: exp of the entropy of the average posterior.

    Between 1 (one category takes everything: collapse) and `num_categories` (all equally often),
    averaged over the variables.
    """

    def __init__(self, num_variables: int, num_categories: int, name="code_perplexity", **kwargs):
        super().__init__(name=name, **kwargs)
        self.num_variables = num_variables
        self.num_categories = num_categories
        self.usage = self.add_variable(
            shape=(num_variables, num_categories), initializer="zeros", name="usage"
        )

    def update_state(
        self,
        probabilities: tf.Tensor,  # [B, N, K]
        sample_weight=None,  # [B]
    ):
        probabilities = tf.cast(probabilities, tf.float32)
        if sample_weight is not None:
            probabilities *= tf.reshape(tf.cast(sample_weight, tf.float32), [-1, 1, 1])
        self.usage.assign_add(tf.reduce_sum(probabilities, axis=0))

    def result(self):
        usage = tf.convert_to_tensor(self.usage)
        share = tf.math.divide_no_nan(usage, tf.reduce_sum(usage, axis=-1, keepdims=True))
        entropy = -tf.reduce_sum(tf.math.xlogy(share, share), axis=-1)
        return tf.reduce_mean(tf.exp(entropy))

    def get_config(self):
        return {
            **super().get_config(),
            "num_variables": self.num_variables,
            "num_categories": self.num_categories,
        }


@keras.saving.register_keras_serializable("tf_direct_opt")
class ConfusionMatrix(keras.metrics.Metric):
    """Counts of classes (rows) against what they were taken for (columns); result: the accuracy.

    Examples without a label, -1, do not count. `counts` is the matrix, [K, K].
    """

    def __init__(self, num_classes: int, name="accuracy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.num_classes = num_classes
        self.counts = self.add_variable(
            shape=(num_classes, num_classes), initializer="zeros", name="counts"
        )

    def update_state(
        self,
        labels: tf.Tensor,  # [B] int
        logits: tf.Tensor,  # [B, K]
        sample_weight=None,  # [B]
    ):
        # Rows of zeros for -1. (`tf.math.confusion_matrix` refuses them.)
        labels, _ = checked_labels(labels, self.num_classes)
        of_class = tf.one_hot(labels, self.num_classes)
        if sample_weight is not None:
            of_class *= tf.reshape(tf.cast(sample_weight, tf.float32), [-1, 1])
        taken_for = tf.one_hot(tf.argmax(logits, axis=-1), self.num_classes)
        self.counts.assign_add(tf.matmul(of_class, taken_for, transpose_a=True))

    def result(self):
        counts = tf.convert_to_tensor(self.counts)
        return tf.math.divide_no_nan(tf.linalg.trace(counts), tf.reduce_sum(counts))

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes}
