import itertools

import numpy as np
import oracles
import pytest
import tensorflow as tf
from estimator_contract import Decoder, EstimatorContract

from tf_direct_opt import direct, estimators, schedules


class TestDirect(EstimatorContract):
    configs = tuple(
        {"epsilon": epsilon, "difference": difference}
        for epsilon, difference in itertools.product((1.0, 0.3), direct.DIFFERENCES)
    )

    def make(self, **config):
        return estimators.Direct(**{"epsilon": 0.5, **config})

    def expected(self, logits, losses, epsilon, difference):
        return oracles.enumerated_direct_gradient(logits, losses, epsilon, difference)

    def test_decoder_gets_the_gradient_at_the_code_used(self):
        for num_variables, num_categories in ((1, 5), (3, 2)):
            decoder = Decoder(num_variables, num_categories, batch=6)
            logits = tf.zeros([6, num_variables, num_categories])
            estimator = self.make(seed=5)
            with tf.GradientTape() as tape:
                loss = estimator(logits, loss_fn=decoder, training=True)
            gradient = tape.gradient(loss, decoder.weights)
            # The code used is the one whose loss was returned: no two codes cost the same.
            codes = oracles.all_codes(num_variables, num_categories).astype(np.float32)
            every = decoder(codes[np.newaxis]).numpy()
            used = codes[np.abs(every - loss.numpy()[:, np.newaxis]).argmin(axis=1)]
            with tf.GradientTape() as tape:
                at_code = decoder(used[:, np.newaxis])[:, 0]
            np.testing.assert_allclose(loss, at_code, rtol=1e-5)
            for got, expected in zip(
                gradient, tape.gradient(at_code, decoder.weights), strict=True
            ):
                np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)

    def test_flips_and_epsilon_are_reported(self):
        # At epsilon -> infinity z*(eps) is the best code whatever the noise: all others flip.
        estimator = self.make(epsilon=1e6, seed=0)
        decoder = Decoder(1, 4, batch=2000)
        estimator(tf.zeros([2000, 4]), loss_fn=decoder, training=True)
        report = estimator.report.result()
        assert float(report["epsilon"]) == pytest.approx(1e6)
        assert float(report["flip_rate"]) == pytest.approx(0.75, abs=4 * np.sqrt(0.1875 / 2000))

    def test_schedule_follows_the_step_or_else_the_calls(self):
        schedule = schedules.two_phase(1.0, 0.25, 2)
        decoder = Decoder(1, 4, batch=2)
        estimator = self.make(epsilon=schedule, seed=0)
        epsilons = []
        for step in (None, None, None, 0, 7):
            estimator.report.reset_state()
            estimator(tf.zeros([2, 4]), loss_fn=decoder, step=step, training=True)
            epsilons.append(float(estimator.report.result()["epsilon"]))
        assert epsilons == [1.0, 1.0, 0.25, 1.0, 0.25]

    def test_tables_of_one_variable_agree(self):
        decoder = Decoder(1, 5, batch=50)
        gradients = []
        for table in ("auto", "all_codes", "single_flips"):
            logits = tf.zeros([50, 5])
            with tf.GradientTape() as tape:
                tape.watch(logits)
                loss = self.make(table=table, seed=1)(logits, loss_fn=decoder, training=True)
            gradients.append(tape.gradient(loss, logits).numpy())
        assert np.any(gradients[0])
        np.testing.assert_array_equal(gradients[0], gradients[1])
        np.testing.assert_array_equal(gradients[0], gradients[2])

    def test_linearised_table_of_a_linear_loss_is_exact(self):
        weights = tf.constant(np.random.default_rng(0).normal(size=[3, 2]), tf.float32)
        logits = tf.zeros([50, 3, 2])
        gradients = []
        for table in ("linearised", "single_flips"):
            with tf.GradientTape() as tape:
                tape.watch(logits)
                loss = self.make(table=table, seed=1)(
                    logits,
                    loss_fn=lambda codes: tf.einsum("bmnk,nk->bm", codes, weights),
                    training=True,
                )
            gradients.append(tape.gradient(loss, logits).numpy())
        assert np.any(gradients[0])
        np.testing.assert_allclose(gradients[0], gradients[1], atol=1e-6)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"epsilon": 0}, "Expected `epsilon` to be greater than 0"),
            ({"difference": "forward"}, "Expected `difference` in .* received 'forward'"),
            ({"table": "full"}, "Expected `table` in .* received 'full'"),
        ],
    )
    def test_bad_arguments_are_refused(self, config, message):
        with pytest.raises(ValueError, match=message):
            self.make(**config)


class TestExact(EstimatorContract):
    sizes = ((1, 2), (1, 7))
    draws = 4

    def make(self, **config):
        return estimators.Exact(**config)

    def expected(self, logits, losses):
        return oracles.enumerated_gradient(logits, losses)

    def test_decoder_gets_the_gradient_of_the_expected_loss(self):
        decoder = Decoder(1, 5, batch=6)
        logits = tf.constant(np.random.default_rng(0).normal(size=[6, 5]), tf.float32)
        with tf.GradientTape(persistent=True) as tape:
            loss = self.make()(logits, loss_fn=decoder, training=True)
            every = decoder(tf.eye(5)[tf.newaxis, :, tf.newaxis])
            expected = tf.reduce_sum(tf.nn.softmax(logits) * every, axis=1)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        for got, want in zip(
            tape.gradient(loss, decoder.weights),
            tape.gradient(expected, decoder.weights),
            strict=True,
        ):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)

    def test_several_variables_are_refused(self):
        with pytest.raises(ValueError, match=r"Expected one variable .* received 3"):
            self.make()(tf.zeros([2, 3, 4]), loss_fn=lambda codes: codes, training=True)


def test_get():
    assert estimators.names() == ["direct", "exact"]
    assert estimators.get("direct", epsilon=0.5).epsilon == 0.5
    exact = estimators.Exact()
    assert estimators.get(exact) is exact
    with pytest.raises(ValueError, match=r"one of \['direct', 'exact'\].*received 'reinforce'"):
        estimators.get("reinforce")
    with pytest.raises(ValueError, match=r"Expected no further arguments .* \['epsilon'\]"):
        estimators.get(exact, epsilon=0.5)


def test_estimate_is_abstract():
    with pytest.raises(NotImplementedError):
        estimators.Estimator()(tf.zeros([1, 2]), loss_fn=lambda codes: codes, training=True)
