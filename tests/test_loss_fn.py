"""What a `loss_fn` returns, and decoders that are another function in training."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from estimator_contract import Decoder
from test_discrete_vae import stripes

from tf_direct_opt import estimators, tables
from tf_direct_opt.loss_fn import WithInference
from tf_direct_opt.models import DiscreteVAE
from tf_direct_opt.models.networks import depends_on_mode

BATCH = 3
INDEPENDENT = sorted({*estimators.names()} - {"flips"})
THROUGH_THE_LOSS = [
    name
    for name in INDEPENDENT
    if estimators.get(name).differentiates_loss or name in ("imle", "adaptive_imle")
]


def run(name, change, batch=BATCH):
    """The loss and its gradient for a `loss_fn` whose right result goes through `change`."""
    decoder = Decoder(1, 2, batch=batch)
    logits = tf.constant(np.linspace(-1.0, 1.0, 2 * batch).reshape(batch, 2), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = estimators.get(name, seed=0)(
            logits, loss_fn=lambda codes: change(decoder(codes)), training=True
        )
    return loss, tape.gradient(loss, logits)


WRONG_SHAPES = {
    "of one example": lambda losses: losses[:1],
    "transposed": tf.transpose,
    "of one code or two": lambda losses: tf.repeat(losses[:, :1], 3 - losses.shape[1] % 3, axis=1),
    "without the batch": lambda losses: losses[0],
    "summed": tf.reduce_sum,
    "with one axis more": lambda losses: losses[..., tf.newaxis],
    "complex": lambda losses: tf.cast(losses, tf.complex64),
    "text": lambda losses: "loss",
    "nothing": lambda losses: None,
}


@pytest.mark.parametrize("name", INDEPENDENT)
def test_a_loss_of_another_shape_is_refused_by_every_estimator(name):
    # All of them for three, which decode one code, flips and candidates.
    every = name in ("reinmax", "direct", "candidates")
    for change in list(WRONG_SHAPES.values())[: None if every else 3]:
        with pytest.raises(ValueError, match=r"Expected `loss_fn` to return losses \[B, M\]"):
            run(name, change)


@pytest.mark.parametrize("name", INDEPENDENT)
@pytest.mark.parametrize("bad", [np.nan, pytest.param(np.inf, marks=pytest.mark.slow)])
def test_a_loss_that_is_not_finite_is_refused_by_every_estimator(name, bad):
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected finite losses of `loss_fn`"):
        run(name, lambda losses: losses + bad)


@pytest.mark.parametrize("name", INDEPENDENT)
def test_integers_and_numpy_count_where_values_do_and_are_refused_where_slopes_do(name):
    def whole(losses):
        return tf.round(10.0 * losses)

    changes = [
        lambda losses: tf.cast(whole(losses), tf.int32),
        lambda losses: whole(losses).numpy(),
        lambda losses: whole(losses).numpy().astype(np.int64),
    ]
    through = name in THROUGH_THE_LOSS
    expected = None if through else run(name, whole)
    for change in changes:
        if through:
            with pytest.raises(ValueError, match="Expected `loss_fn` to be differentiable"):
                run(name, change)
        else:
            for got, right in zip(run(name, change), expected, strict=True):
                np.testing.assert_array_equal(got, right)


def test_a_loss_in_double_precision_is_cast():
    loss, gradient = run("direct", lambda losses: tf.cast(losses, tf.float64))
    expected, slope = run("direct", lambda losses: losses)
    np.testing.assert_array_equal(loss, expected)
    np.testing.assert_array_equal(gradient, slope)


def test_a_batch_of_unknown_size_is_looked_at_as_well():
    def traced(change):
        decoder, estimator = Decoder(1, 2, batch=BATCH), estimators.Direct(seed=0)
        logits = tf.TensorSpec([None, 2])
        return tf.function(
            lambda h: estimator(h, loss_fn=lambda z: change(decoder(z)), training=True), [logits]
        )

    assert traced(lambda losses: losses)(tf.zeros([BATCH, 2])).shape == (BATCH,)
    with pytest.raises(ValueError, match=r"here \[B, 2\] .* received shape \(1, 2\)"):
        traced(lambda losses: losses[:1])(tf.zeros([BATCH, 2]))
    unknown = tf.function(lambda x: x, [tf.TensorSpec([None, None])])
    with pytest.raises(tf.errors.InvalidArgumentError, match="a row for each example"):
        traced(lambda losses: unknown(losses[:2]))(tf.zeros([BATCH, 2]))


@pytest.mark.parametrize("make_table", [tables.all_codes, tables.single_flips, tables.linearised])
def test_tables_look_at_the_loss_themselves(make_table):
    decoder = Decoder(1, 2, batch=BATCH)
    code = tf.one_hot([[0], [1], [1]], 2)
    with pytest.raises(ValueError, match=r"Expected `loss_fn` to return losses \[B, M\]"):
        make_table(lambda codes: decoder(codes)[:1], code)


def test_forgotten_training_is_refused_where_it_is_differentiated():
    decoder, logits = Decoder(1, 2, batch=2), tf.zeros([2, 2])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = estimators.Direct(seed=0)(logits, loss_fn=decoder)
    with pytest.raises(ValueError, match="Expected training=True where the loss is differentiated"):
        tape.gradient(loss, logits)
    with tf.GradientTape() as tape:
        loss = estimators.Direct(seed=0)(tf.stop_gradient(logits), loss_fn=decoder)
    assert tape.gradient(loss, decoder.first) is not None


# Decoders that are another function in training.


def vae(estimator, *hidden, num_variables=3):
    """A model whose decoder ignores the code up to the hidden layers given, which see ones."""
    decoder = keras.Sequential(
        [
            keras.layers.Dense(8, kernel_initializer="zeros", bias_initializer="ones"),
            *hidden,
            keras.layers.Dense(36, kernel_initializer=keras.initializers.RandomNormal(stddev=3.0)),
        ]
    )
    model = DiscreteVAE(num_variables, 2, estimator, decoder=decoder, hidden_units=4)
    model.build((None, 6, 6))
    return model


@pytest.mark.parametrize("name", INDEPENDENT)
def test_with_dropout_a_decoder_that_ignores_the_code_gives_no_gradient(name):
    num_variables = 1 if name == "exact" else 3
    model = vae(
        estimators.get(name, seed=0), keras.layers.Dropout(0.5), num_variables=num_variables
    )
    logits = tf.zeros([4, num_variables, 2])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        loss_fn = model.make_loss_fn(stripes(4), training=True)
        loss = model.estimator(logits, loss_fn=loss_fn, training=True)
    np.testing.assert_allclose(tape.gradient(loss, logits), 0.0, atol=1e-5)
    # The code that is used is decoded as in training: with some of the hidden units at zero.
    at_inference = model.make_loss_fn(stripes(4))(tf.zeros([1, 1, num_variables, 2]))[:, 0]
    assert np.all(np.abs(loss - at_inference) > 1e-3)
    assert np.any(tape.gradient(loss, model.decoder.trainable_weights[-1]) != 0.0)


@pytest.mark.parametrize("num_variables", [1, 3])
def test_with_batch_normalization_candidates_are_compared_by_the_moving_averages(num_variables):
    layer = keras.layers.BatchNormalization()
    model = vae("direct", layer, num_variables=num_variables)
    model.decoder.layers[0].kernel.assign(
        tf.random.stateless_normal([2 * num_variables, 8], [1, 2])
    )
    code = tf.one_hot([[0] * num_variables, [1] * num_variables], 2)
    make_table = tables.all_codes if num_variables == 1 else tables.single_flips
    before = make_table(model.make_loss_fn(stripes(2)), code)[1]
    loss, table = make_table(model.make_loss_fn(stripes(2), training=True), code)
    after = make_table(model.make_loss_fn(stripes(2)), code)[1]
    # Flips are decoded after the code that is used, and see its update of the averages.
    expected = before if num_variables == 1 else after
    mean = layer.moving_mean.numpy()
    np.testing.assert_allclose(table, expected, rtol=1e-5)
    # One update, from the codes that are used: the moving average starts at 0, momentum 0.99.
    hidden = tf.reshape(code, [2, -1]) @ model.decoder.layers[0].kernel + 1.0
    np.testing.assert_allclose(mean, 0.01 * np.mean(hidden, axis=0), rtol=1e-4)
    in_training = model.reconstruction_loss(stripes(2), code[:, tf.newaxis], training=True)[:, 0]
    np.testing.assert_allclose(loss, in_training, rtol=1e-4)


class Noisy(keras.layers.Layer):
    def call(self, inputs, training=False):
        return inputs + tf.random.normal(tf.shape(inputs)) if training else inputs


@pytest.mark.parametrize(
    ("layer", "changes"),
    [
        (keras.layers.Dense(8, name="hidden"), False),
        (keras.layers.Dropout(0.0), False),
        (keras.layers.LayerNormalization(), False),
        (keras.layers.Dropout(0.1), True),
        (keras.layers.GaussianNoise(0.1), True),
        (keras.layers.BatchNormalization(), True),
        (Noisy(), True),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_decoder_has_two_faces_only_where_training_changes_it(layer, changes):
    # Where it does not, one decode of the K codes serves the loss and the table, as ever.
    model = vae("direct", layer, num_variables=1)
    assert depends_on_mode(model.decoder) is changes
    loss_fn = model.make_loss_fn(stripes(2), training=True)
    assert isinstance(loss_fn, WithInference) is changes
    assert not isinstance(model.make_loss_fn(stripes(2), training=False), WithInference)
