"""What a user of Keras and TFP writes on the first day, around the argmax and around the models."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_direct_opt import direct, estimators, labels, losses, metrics, posteriors, solvers
from tf_direct_opt.layers import PerturbedArgmax
from tf_direct_opt.models import DiscreteVAE, MixtureVAE, StructuredVAE
from tf_direct_opt.perturbation import sample_gumbel

X = np.random.default_rng(0).normal(size=[8, 4]).astype("float32")
IMAGES = np.float32(X > 0)
SOLVER = solvers.Categorical()


def fit(layers, loss="mse", targets=X, optimizer="adam"):
    model = keras.Sequential([keras.Input([4]), *layers])
    model.compile(optimizer, loss)
    model.fit(X, targets, verbose=0)
    return model


def vae(*args, **kwargs):
    model = DiscreteVAE(*(args or (2, 3)), hidden_units=4, **kwargs)
    model.compile("adam")
    return model


# Factors on the loss.


def test_a_number_for_the_factor_under_a_loss_scale_that_changes():
    keras.config.set_dtype_policy("mixed_float16")
    with pytest.raises(ValueError, match=r"no number for the `loss_scale` .* received 0.125"):
        fit([PerturbedArgmax(loss_scale=1 / 8)])
    decoder = keras.Sequential([PerturbedArgmax(loss_scale=1.0), keras.layers.Dense(4)])
    with pytest.raises(ValueError, match=r"no number for the `loss_scale`"):
        vae(decoder=decoder).fit(IMAGES, verbose=0)
    fit([keras.layers.Dense(4), PerturbedArgmax(loss_scale="relative")])


def test_a_mean_by_weights_is_no_mean_over_the_batch():
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    with pytest.raises(ValueError, match=r"received .* reduction 'mean_with_sample_weight'"):
        fit([PerturbedArgmax()], loss)


def test_a_condition_around_a_layer_that_measures_its_factor():
    class Conditional(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.argmax = PerturbedArgmax(seed=0)

        def call(self, x, training=False):
            return tf.cond(
                tf.reduce_sum(x) > 0, lambda: self.argmax(x, training=training), lambda: x
            )

    with pytest.raises(ValueError, match=r"layer's own loop or condition.*received a tf.cond"):
        fit([Conditional()])


def test_a_loop_of_ones_own_around_the_model_and_steps_at_once():
    argmax = keras.Sequential([PerturbedArgmax(seed=0)])
    fit([keras.layers.Dense(4), keras.Sequential([PerturbedArgmax(seed=0)], name="cond")])
    model = keras.Sequential([keras.Input([4]), keras.layers.Dense(4), argmax])
    model.compile("adam", "mse", steps_per_execution=4)
    model.fit(X, X, batch_size=2, verbose=0)
    weights = model.trainable_variables

    @tf.function(autograph=True)
    def steps(number):
        for _ in tf.range(number):
            if number > 0:
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean((model(X, training=True) - X) ** 2) + sum(model.losses)
                model.optimizer.apply(tape.gradient(loss, weights), weights)

    before = weights[0].numpy()
    steps(tf.constant(3))
    assert np.any(weights[0].numpy() != before)


# What is around the argmax.


def one_row(pair):
    logits, table = (row[tf.newaxis] for row in pair)
    loss = tf.reduce_sum(table)[tf.newaxis]
    return direct.direct_loss(loss, logits, tf.zeros_like(logits), table, 3.0, SOLVER)[0]


def test_a_function_within_vectorized_map_would_lose_its_gradient():
    with pytest.raises(ValueError, match=r"Expected no tf.vectorized_map around an argmax"):
        tf.vectorized_map(tf.function(one_row), (X, X[::-1]))


def test_a_gather_behind_the_argmax_sends_its_gradient():
    logits, table = tf.constant(X), tf.constant(X[::-1].copy())

    def gradient(pick):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = direct.direct_loss(
                tf.zeros([8]), logits, tf.zeros_like(logits), table, 3.0, SOLVER
            )
            code = direct.direct_argmax(logits, tf.zeros_like(logits), 3.0, SOLVER)
            total = tf.reduce_sum(pick(loss)) + tf.reduce_sum(pick(code) * pick(table))
        return tape.gradient(total, logits)

    dense = tf.constant(np.eye(8, dtype=np.float32)[[1, 4]])
    expected = gradient(lambda x: tf.tensordot(dense, x, 1))
    assert np.any(expected)
    found = tf.function(lambda: gradient(lambda x: tf.gather(x, [1, 4])))()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_solver_with_a_trainable_variable():
    weight = tf.Variable(1.0)
    layers = [
        keras.layers.Dense(4),
        PerturbedArgmax(solver=lambda s: SOLVER(weight * s), loss_scale="relative", seed=0),
    ]
    model = fit(layers)
    np.testing.assert_array_equal(model.predict(X, verbose=0).sum(axis=1), 1.0)


class Chooser(keras.layers.Layer):
    def build(self, shape):
        self.argmax = PerturbedArgmax(loss_scale="relative")  # A seed is drawn, while `fit` traces.

    def call(self, x, training=False):
        return self.argmax(x, training=training)


def test_a_layer_without_a_seed_is_made_while_a_step_is_traced():
    model = keras.Sequential([Chooser(), keras.layers.Dense(4)])
    model.compile("adam", "mse")
    model.fit(X, X, verbose=0)
    assert isinstance(int(model.layers[0].argmax.seeds.state[0]), int)
    model = vae()
    model.build((None, 4))
    assert tf.function(lambda: model.sample(3))().shape == [3, 4]


# Shapes that would be broadcast.


def test_a_loss_and_labels_of_one_number_for_all():
    logits = tf.zeros([4, 3])
    with pytest.raises(ValueError, match=r"Expected `loss` of shape \(4,\)"):
        direct.direct_loss(tf.ones([1]), logits, logits, logits, 1.0, SOLVER)
    with pytest.raises(ValueError, match=r"Expected labels of the 4 logits"):
        labels.direct_label_loss(logits, logits, tf.constant([1]), 1.0)


def test_the_loss_of_pixels_is_no_loss_of_keras():
    with pytest.raises(ValueError, match=r"Expected pixel logits \[S, M, P\] .* \(3, 5\)"):
        losses.bernoulli_nll(np.ones([3, 5]), np.ones([3, 5]))


@pytest.mark.parametrize(
    ("name", "config", "size"),
    [
        ("categorical", {"num_variables": 3, "num_categories": 2}, (3, 2)),
        ("chain", {"num_variables": 3, "num_categories": 2}, (14,)),
        ("k_subset", {"num_variables": 3, "k": 1}, (3,)),
        ("pairwise_binary", {"num_variables": 3}, (6,)),
    ],
)
def test_the_density_of_one_code_an_example(name, config, size):
    q = posteriors.get(name, **config)(tf.random.normal([2, *size], seed=0))
    for density in (q.log_prob, q.score):
        with pytest.raises(ValueError, match=r"Expected codes \[B, S, N, K\].*\(2, 3, 2\)"):
            density(q.mode())
        assert density(q.mode()[:, tf.newaxis]).shape == [2, 1]


def test_one_number_for_a_seed():
    with pytest.raises(ValueError, match=r"Expected `seed` to be two integers.*received 42"):
        sample_gumbel([3], seed=42)


# Names, counts and arguments.


def test_a_solver_that_a_function_makes_has_a_name_once():
    def make(place):
        @solvers.register("test_first_day/place")
        def one(scores):
            return np.arange(len(scores)) == place

        return one

    first = make(0)
    assert "test_first_day/place" in solvers.names()
    with pytest.raises(ValueError, match=r"Expected a `name` that is not taken"):
        make(3)
    with pytest.raises(ValueError, match=r"Expected a `name` that is not taken"):
        solvers.register("test_first_day/place")(lambda scores: scores > 0)
    assert solvers.get("test_first_day/place") is first


def test_an_unknown_argument_of_an_estimator():
    for make in (
        lambda: estimators.get("exact", epsilon=0.1),
        lambda: DiscreteVAE(1, 3, "exact", epsilon=0.1),
    ):
        with pytest.raises(ValueError, match=r"'exact', \['seed'\]; received also \['epsilon'\]"):
            make()
    assert estimators.get("exact", name="mine").name == "mine"


def test_counts_of_numpy_in_every_model_and_solver():
    model = MixtureVAE(np.int64(3), gaussian_dim=np.int64(2), hidden_units=4)
    assert model(IMAGES)["probabilities"].shape == [8, 3]
    own = StructuredVAE(np.int64(3), num_candidates=np.int64(2)).get_config()
    assert type(own["num_variables"]) is type(own["num_candidates"]) is int
    for config in (
        solvers.serialize(solvers.PairwiseBinary(np.int64(3))),
        estimators.Flips(np.int64(3)).get_config()["solver"],
    ):
        assert json.loads(json.dumps(config)) == config
        assert solvers.get(config).num_variables == 3


# Data and figures.


def test_images_of_truth_values():
    model = vae()
    model.fit(IMAGES > 0, verbose=0)
    found, expected = (
        model.evaluate(images, return_dict=True, verbose=0) for images in (IMAGES > 0, IMAGES)
    )
    assert found == expected


@pytest.mark.parametrize("name", ["label", "aux"])
def test_a_dict_with_the_images_in_it(name):
    data = {"image": IMAGES, name: np.ones([8, 2], "float32")}
    for given in (data, tf.data.Dataset.from_tensor_slices(data).batch(4)):
        model = vae()
        with pytest.raises(ValueError, match=r"images alone, out of their dict or tuple"):
            model.fit(given, verbose=0)
        assert not model.built
    model.build((None, 4))
    with pytest.raises(ValueError, match=r"images alone, out of their dict or tuple"):
        model(data)


def test_weights_of_a_confusion_matrix_and_of_codes():
    answers, weights = np.eye(3)[[0, 1, 1]], [1.0, 2.0, 3.0]
    matrix = metrics.ConfusionMatrix(3)
    matrix.update_state([0, 1, 2], answers, weights)
    assert float(matrix.result()) == pytest.approx(3 / 6)
    np.testing.assert_array_equal(matrix.counts, [[1, 0, 0], [0, 2, 0], [0, 3, 0]])
    perplexity = metrics.CodePerplexity(1, 3)
    perplexity.update_state(answers[:, np.newaxis], weights)
    share = np.array([1, 5]) / 6
    assert float(perplexity.result()) == pytest.approx(np.exp(-np.sum(share * np.log(share))))


def test_a_part_of_ones_own_builds_its_layers_in_build():
    class WithBaseline(estimators.Estimator):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.baseline = keras.layers.Dense(1, name="baseline")

        def estimate(self, posterior, loss_fn, step):
            return loss_fn(posterior.mode()[:, tf.newaxis])[:, 0]

    with pytest.raises(ValueError, match=r"Expected WithBaseline to build .* received 'baseline'"):
        vae(1, 3, WithBaseline()).fit(IMAGES, verbose=0)
