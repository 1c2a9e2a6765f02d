"""One step of a model whose loss is its own: its gradient, and what is reported of it."""

import math

import keras
import numpy as np
import tensorflow as tf

from tf_direct_opt.labels import flat_if_unknown
from tf_direct_opt.layers import refuse_number_under_loss_scaling
from tf_direct_opt.metrics import Means
from tf_direct_opt.models.networks import image_shape
from tf_direct_opt.models.replicas import Replicated, agreed, share_of_mean

# Every evaluation draws the same noise, so that two epochs, or two models, are compared under
# common random numbers and nothing that is evaluated disturbs the noise of training.
EVALUATION_SEED = (2019, 1806)
FIRST_LOSS_SCALE = 2.0**10


class Stepping(Replicated):
    """A Keras model that computes, reports and differentiates its own loss.

    A subclass gives `call` and `compute_loss`, whose last line is `reduced`; `num_pixels`; and,
    with metrics beside the two reports, `training_metrics` and `evaluation_metrics`.

    Args:
        trained: names of what `fit` reports beside the loss.
        evaluated: names of what `evaluate` reports beside the loss and the bits a dimension.
    """

    num_pixels: int

    def __init__(self, trained, evaluated, **kwargs):
        super().__init__(**kwargs)
        self.training_report = Means(["loss", *trained])
        self.evaluation_report = Means(["loss", *evaluated, "bits_per_dimension"])

    def compile(self, optimizer="rmsprop", loss=None, auto_scale_loss=True, **kwargs):
        """As for every Keras model, without a loss and metrics: the model has its own.

        Under mixed_float16 the scale of the loss begins at 2**10, not at Keras' 2**15.
        """
        kwargs["loss"] = loss
        given = sorted(
            name
            for name in ("loss", "loss_weights", "metrics", "weighted_metrics")
            if kwargs.get(name) is not None
        )
        if given:
            raise ValueError(
                f"Expected compile(optimizer=...) alone; received also {given}. "
                f"{type(self).__name__} trains its own loss and reports its own metrics."
            )
        optimizer = keras.optimizers.get(optimizer)
        scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        half = self.dtype_policy.name == "mixed_float16"
        if auto_scale_loss and half and optimizer and not scaled:
            # Keras' first scale is for means over the parts of an example; these losses are sums,
            # under which it overflows, and the first steps would be skipped.
            optimizer = keras.optimizers.LossScaleOptimizer(
                optimizer, FIRST_LOSS_SCALE, name="loss_scale_optimizer"
            )
        super().compile(optimizer=optimizer, auto_scale_loss=auto_scale_loss, **kwargs)

    @property
    def step(self):
        """Steps of training so far, by which schedules go: the optimizer counts them."""
        if getattr(self, "optimizer", None) is None:
            raise ValueError(
                "Expected a compiled model, whose optimizer counts the steps; received none. "
                "Please call compile(optimizer=...) first."
            )
        return self.optimizer.iterations

    def compile_from_config(self, config):
        # Keras leaves a model with a `compile` of its own uncompiled when it loads it.
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def fit(self, x=None, y=None, *args, sample_weight=None, **kwargs):
        _refuse_weights_that_are_lost(y, sample_weight)
        self._build_for(x)
        return super().fit(x, y, *args, sample_weight=sample_weight, **kwargs)

    def evaluate(self, x=None, y=None, *args, sample_weight=None, **kwargs):
        _refuse_weights_that_are_lost(y, sample_weight)
        self._build_for(x)
        return super().evaluate(x, y, *args, sample_weight=sample_weight, **kwargs)

    def predict(self, x, *args, **kwargs):
        self._build_for(x)
        return super().predict(x, *args, **kwargs)

    def train_on_batch(self, x, *args, **kwargs):
        self._build_for(x)
        return super().train_on_batch(x, *args, **kwargs)

    def test_on_batch(self, x, *args, **kwargs):
        self._build_for(x)
        return super().test_on_batch(x, *args, **kwargs)

    for _method in (fit, evaluate, predict, train_on_batch, test_on_batch):
        _method.__doc__ = getattr(keras.Model, _method.__name__).__doc__

    def _build_for(self, data):
        """Builds the model for its data: Keras would while it traces the first step, and twice."""
        if self.built:
            return
        if isinstance(data, tf.data.Dataset):
            data, *_ = keras.utils.unpack_x_y_sample_weight(data.element_spec)
        if isinstance(data, dict | tuple):
            image_shape(data)  # Says what they have to be.
        known = isinstance(data, np.ndarray | tf.Tensor | tf.TypeSpec)
        shape = getattr(data, "shape", None) if known else None
        if shape is not None and tf.TensorShape(shape).rank is None:
            raise ValueError(
                "Expected images [B, *image] of a known size; received a data set that does not "
                "say their shape. Please give it by tf.ensure_shape in a map."
            )
        if shape is not None and len(shape):
            with self.distribute_strategy.scope():
                self.build((None, *tf.TensorShape(shape)[1:]))

    def make_train_function(self, force=False):
        refuse_number_under_loss_scaling(self._flatten_layers(), self.optimizer)
        _refuse_what_is_not_built(self)
        # Without variables of its optimizer Keras traces the first step twice.
        if self.built and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        super().make_train_function(force)

    def train_step(self, data):
        images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            outputs = self(images, training=True)
            loss = self.compute_loss(images, labels, outputs, sample_weight, training=True)
            loss = self.optimizer.scale_loss(loss)
        if weights := self.trainable_weights:  # None where all are frozen.
            gradients = tape.gradient(loss, weights)
            if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
                gradients = agreed(gradients)
            self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return self.results(self.training_metrics)

    def test_step(self, data):
        images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        outputs = self(images, training=False)
        self.compute_loss(images, labels, outputs, sample_weight, training=False)
        return self.results(self.evaluation_metrics)

    def results(self, metrics: list) -> dict[str, tf.Tensor]:
        """The results of the metrics of one phase, name -> []: the other's would read 0."""
        results: dict[str, tf.Tensor] = {}
        for metric in metrics:
            result = metric.result()
            results |= result if isinstance(result, dict) else {metric.name: result}
        return results

    @property
    def metrics_names(self) -> list[str]:
        """The names of what `evaluate` returns as a list.

        Training reports others: `train_on_batch(..., return_dict=True)` says which.
        """
        names: list[str] = []
        for metric in self.evaluation_metrics:
            names += metric.quantities if isinstance(metric, Means) else [metric.name]
        return names

    def _flatten_metrics_in_order(self, logs):
        # Keras goes by `metric.name`, which is not what a metric of several names reports.
        names = [name for name in self.metrics_names if name in logs]
        return [logs[name] for name in [*names, *sorted(set(logs) - set(names))]]

    def evaluation_seed(self) -> tf.Tensor:
        """The seed [2] of a batch's noise: another one in every batch of an evaluation.

        It is made of the number of images seen since the evaluation began, so that the next
        evaluation draws the same noise again; and of the replica.
        """
        seed = tf.random.fold_in(EVALUATION_SEED, self.evaluation_report.num_examples)
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return seed
        return tf.random.fold_in(seed, context.replica_id_in_sync_group)

    def reduced(
        self,
        loss: tf.Tensor,  # [B]
        values: dict[str, tf.Tensor],  # name -> [] or [B]
        sample_weight: tf.Tensor | None,  # [B]
        training: bool,
    ) -> tf.Tensor:
        """Reports loss and values; the scalar that is differentiated: their mean, penalties."""
        if sample_weight is not None:
            weight = _one_an_example(sample_weight, loss)
            loss *= weight
            values = {
                name: value * tf.cast(weight, value.dtype)
                if isinstance(value, tf.Tensor) and value.shape.rank
                else value
                for name, value in values.items()
            }
        if not training:
            values = {**values, "bits_per_dimension": loss / (self.num_pixels * math.log(2.0))}
        penalty = tf.constant(0.0, loss.dtype)
        if training and self.losses:
            penalty = tf.add_n([tf.cast(penalty, loss.dtype) for penalty in self.losses])
        report = self.training_report if training else self.evaluation_report
        report.update_state({"loss": loss + penalty, **values}, tf.shape(loss)[0])
        # Gradients are summed over replicas.
        return share_of_mean(loss) + penalty / self.distribute_strategy.num_replicas_in_sync


def _refuse_what_is_not_built(model):
    """ValueError for a part of one's own whose layers come when the optimizer has its variables."""
    for part in (getattr(model, "estimator", None), getattr(model, "likelihood", None)):
        for layer in [] if part is None else part._flatten_layers():
            if model.built and not layer.built:
                raise ValueError(
                    f"Expected {type(part).__name__} to build its layers in `build`; received "
                    f"{layer.name!r}, which is not built. Please call its `build` there."
                )


def _refuse_weights_that_are_lost(y, sample_weight):
    if sample_weight is not None and y is None:
        raise ValueError(
            "Expected `y` beside `sample_weight`, which Keras drops without it; received images "
            "alone. Please give y=np.zeros(len(images)), or labels, -1 where there is none."
        )


def _one_an_example(sample_weight, loss):
    """Weights [B] of the loss [B]; from [B, 1] as well."""
    weight = flat_if_unknown(tf.cast(sample_weight, loss.dtype), "sample_weight")
    if weight.shape.rank == 2 and weight.shape[1] == 1:
        weight = weight[:, 0]
    if weight.shape.rank != 1 or not weight.shape.is_compatible_with(loss.shape):
        raise ValueError(
            "Expected `sample_weight` of shape [B] or [B, 1], one number an example; received "
            f"shape {tuple(weight.shape)}. Please reduce it to one number an example."
        )
    return weight
