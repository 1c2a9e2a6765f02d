"""Metrics of discrete codes that a plain mean cannot express."""

import keras
import tensorflow as tf


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
        sample_weight=None,
    ):
        del sample_weight
        self.usage.assign_add(tf.reduce_sum(tf.cast(probabilities, tf.float32), axis=0))

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
