"""A posterior, a solver and an estimator of one's own: one file and one line each.

The files are toy_posterior.py, toy_solver.py and toy_estimator.py, the lines are in `register`.
The contracts of the package ask them what they ask its own, and they work together.
"""

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from estimator_contract import Decoder, EstimatorContract
from posterior_contract import PosteriorContract
from solver_contract import SolverContract
from toy_estimator import Reinforce
from toy_posterior import Unanimous
from toy_solver import AtMostOne

from tf_direct_opt import estimators, layers, models, posteriors, solvers, tables


@pytest.fixture(autouse=True)
def register(monkeypatch):
    monkeypatch.setitem(posteriors.REGISTRY, "unanimous", Unanimous)
    monkeypatch.setitem(solvers._REGISTRY, "at_most_one", AtMostOne)
    monkeypatch.setitem(estimators._REGISTRY, "reinforce", Reinforce)


class TestPosterior(PosteriorContract):
    name = "unanimous"
    sizes = ({"num_variables": 2, "num_categories": 3},)

    def enumerate(self, num_variables, num_categories):
        votes = np.eye(num_categories)
        return np.repeat(votes[:, np.newaxis], num_variables, axis=1), votes


class TestSolver(SolverContract):
    solver = AtMostOne
    sizes = ((1,), (4,))

    def event_shape(self, size):
        return size

    def configurations(self, size):
        return np.concatenate([np.zeros([1, *size]), np.eye(*size)]).astype(np.float32)


class TestEstimator(EstimatorContract):
    differentiable = True  # It leaves what comes above the first derivative to TensorFlow.
    sizes = ((1, 3), (2, 2))

    def make(self, **config):
        return estimators.get("reinforce", **config)

    def expected(self, logits, decoder):
        return oracles.enumerated_gradient(logits, decoder.losses(*logits.shape)), 0.0


def test_the_posterior_works_with_an_estimator_of_the_package():
    # Every candidate of the vote: the closed form of one variable of 4 categories. 20000 draws, 4
    # standard errors for 4 entries: fails for 1 seed in 4000.
    family = posteriors.get("unanimous", num_variables=2, num_categories=4)
    estimator = estimators.get("candidates", posterior=family, averaged=False, epsilon=0.5, seed=1)
    decoder = Decoder(2, 4)
    h = np.random.default_rng(3).normal(size=4)
    losses = decoder(family(h[np.newaxis]).configurations(tf.range(4))[tf.newaxis])[0].numpy()
    logits = tf.constant(np.tile(h, [20_000, 1]), tf.float32)
    decoder.offset = tf.broadcast_to(decoder.offset, [20_000, 1, 6])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = estimator(logits, loss_fn=decoder, training=True)
    expected = oracles.direct_gradient(h, losses, 0.5, "toward_better")
    oracles.assert_mean_is(tape.gradient(loss, logits), expected)


def test_the_solver_works_in_the_layer():
    layer = layers.PerturbedArgmax(epsilon=1.0, solver={"name": "at_most_one", "config": {"n": 3}})
    again = layers.PerturbedArgmax.from_config(layer.get_config())
    code = again(tf.constant([[-50.0, 50.0, 0.0], [-50.0, -50.0, -50.0]]))
    np.testing.assert_array_equal(code, [[0, 1, 0], [0, 0, 0]])


class Vote(models.vae.VAE):
    def bounds(self, posterior, loss_fn):
        every = posterior.configurations(tf.range(posterior.num_configurations))
        losses = tables.losses_of(loss_fn, every[tf.newaxis])
        return {"reconstruction": tf.reduce_sum(posterior.probabilities() * losses, axis=-1)}


def test_posterior_and_estimator_train_a_vae():
    images = np.repeat(np.eye(4, dtype=np.float32), 16, axis=0)
    family = posteriors.get("unanimous", num_variables=2, num_categories=4)
    model = Vote(
        family,
        estimators.get("reinforce", posterior=family, seed=0),
        evaluated=["reconstruction", "kl"],
        kl_weight=0.0,
        hidden_units=16,
    )
    model.compile(keras.optimizers.Adam(0.02), steps_per_execution=2)
    losses = []
    for epochs in (1, 30):
        model.fit(images, batch_size=32, epochs=epochs, verbose=0)
        losses.append(model.evaluate(images, verbose=0, return_dict=True)["reconstruction"])
    # A decoder that learns nothing from the code is left with 4 pixels of 1/4: 2.25 nats.
    assert losses[0] > 2.2
    assert losses[1] < 1.8
