"""Several replicas of a model, on the devices of one machine or of many.

Every replica takes its part of each batch, which may be empty. Weights are equal on all of them, as
their gradients are added up; metrics are sums of what each has seen, added up at the end of an
execution, and divided then.
"""

import keras
import numpy as np
import tensorflow as tf


class Replicated(keras.Model):
    """A Keras model whose `fit` and `evaluate` hold under any `tf.distribute` strategy.

    Keras' own average what replicas report, which is not the average over examples where one has
    more of them, and fail under `MultiWorkerMirroredStrategy`. A subclass gives `train_step` and
    `test_step`, `training_metrics` and `evaluation_metrics`, whose variables are sums, and
    `results` of them. On one replica Keras' own are left alone.
    """

    def make_train_function(self, force=False):
        if not self._replicated:
            super().make_train_function(force)
        elif self.train_function is None or force:
            _refuse_clipping(self.optimizer)
            self.train_function = self._make_execution(self.train_step, self.training_metrics)

    def make_test_function(self, force=False):
        if not self._replicated:
            super().make_test_function(force)
        elif self.test_function is None or force:
            self.test_function = self._make_execution(self.test_step, self.evaluation_metrics)

    @property
    def _replicated(self) -> bool:
        return self.distribute_strategy.num_replicas_in_sync > 1

    def _make_execution(self, step, metrics):
        """iterator -> results, after `steps_per_execution` steps, or as many as there are."""
        strategy = self.distribute_strategy

        @self._autoconvert_optionals
        def on_replicas(batch):
            strategy.run(step, args=(batch,))

        @tf.autograph.experimental.do_not_convert
        def execute(iterator):
            def step_if_any(steps, _):
                batch = iterator.get_next_as_optional()

                def one_step():
                    on_replicas(batch.get_value())
                    return steps + 1, True

                return tf.cond(batch.has_value(), one_step, lambda: (steps, False))

            steps, _ = tf.while_loop(
                lambda steps, more: more & (steps < self.steps_per_execution),
                step_if_any,
                (tf.constant(0), tf.constant(True)),
            )
            return steps, self._results_of_all(metrics)

        if not self.run_eagerly:
            execute = tf.function(execute, reduce_retracing=True)

        def execution(iterator):
            if not isinstance(iterator, tf.distribute.DistributedIterator):
                raise ValueError(
                    f"Expected `fit` or `evaluate` on {strategy.num_replicas_in_sync} replicas, "
                    "which divide a batch; received `train_on_batch` or `test_on_batch`. Please "
                    "call fit(images, batch_size=len(images))."
                )
            steps, results = execute(iterator)
            if not steps:
                raise StopIteration
            return results

        return execution

    def _results_of_all(self, metrics):
        """The results of the sums over all replicas, which are exchanged as one vector."""
        strategy = self.distribute_strategy
        variables = [variable for metric in metrics for variable in metric.variables]
        flat = strategy.run(lambda: tf.concat([tf.reshape(v, [-1]) for v in variables], axis=0))
        total = strategy.reduce("SUM", flat, axis=None)
        parts = tf.split(total, [v.shape.num_elements() for v in variables])
        sums = [tf.reshape(part, v.shape) for part, v in zip(parts, variables, strict=True)]
        with keras.StatelessScope(state_mapping=zip(variables, sums, strict=True)):
            return self.results(metrics)

    def _get_metrics_result_or_logs(self, logs):
        return logs  # Those of the last execution are of the whole epoch.

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras' own adds up the batches of the replicas, which have not one size.
        if self.built or not self._replicated:
            return
        data = data_batch if iterator is None else iterator._distributed_dataset.element_spec
        images = tf.nest.flatten(data, expand_composites=True)[0]
        with self.distribute_strategy.scope():
            self.build((None, *images.shape[1:]))


def agreed(gradients: list[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """This replica's gradients; NaN where those of any replica are not finite.

    Keras lets each replica decide, by its own share, whether a loss scale has overflowed and the
    step is skipped: mirrored ones would take the word of the first, and workers wait for ever for
    one that skips.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return gradients
    finite = [tf.reduce_all(tf.math.is_finite(g)) for g in gradients if g is not None]
    others = context.all_reduce("SUM", tf.cast(~tf.reduce_all(finite), tf.float32))
    poison = tf.where(others > 0.0, np.nan, 0.0)
    return [g if g is None else g + tf.cast(poison, g.dtype) for g in gradients]


def _refuse_clipping(optimizer):
    """ValueError for an optimizer that clips: Keras clips the share of each replica, then adds."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # Of a LossScaleOptimizer.
    for name in ("clipnorm", "clipvalue", "global_clipnorm"):
        if getattr(optimizer, name, None) is not None:
            raise ValueError(
                f"Expected an optimizer without `{name}` on several replicas, where Keras clips "
                f"the share of each and not their sum; received {getattr(optimizer, name)}. Please "
                "leave it out, or train on one device."
            )


def share_of_mean(
    values: tf.Tensor,  # [B]
) -> tf.Tensor:
    """This replica's summand of the mean over the examples of all replicas; 0 for none."""
    count = tf.cast(tf.shape(values)[0], values.dtype)
    context = tf.distribute.get_replica_context()
    if context is not None and context.num_replicas_in_sync > 1:
        if values.shape[0] is None:
            count = context.all_reduce("SUM", count)
        else:  # Of equal sizes.
            count *= context.num_replicas_in_sync
    return tf.math.divide_no_nan(tf.reduce_sum(values), count)
