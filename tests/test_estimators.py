import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from estimator_contract import Decoder, EstimatorContract

from tf_direct_opt import direct, estimators, posteriors, schedules
from tf_direct_opt.estimators.arms import antithetic_bits, stopping_log_odds


class TestCandidates(EstimatorContract):
    # All configurations are candidates: the closed form of one variable of K^N categories.
    configs = tuple({"difference": difference} for difference in direct.DIFFERENCES)
    sizes = ((1, 7), (2, 3))

    def make(self, **config):
        return estimators.Candidates(
            **{"epsilon": 0.5, "num_candidates": 16, "averaged": False, **config}
        )

    def expected(self, logits, decoder, difference):
        codes = oracles.all_codes(*logits.shape)
        scores = oracles.log_posterior(logits, codes)
        losses = decoder.losses(*logits.shape)
        slope = oracles.direct_gradient(scores, losses, 0.5, difference)
        return np.einsum("m,mnk->nk", slope, codes), 0.0

    @pytest.mark.parametrize("num_candidates", [2, 5, 16])
    def test_as_many_codes_are_decoded_as_there_are_candidates(self, num_candidates):
        seen, decoder = [], Decoder(3, 2, batch=20)

        def loss_fn(codes):
            seen.append(codes)
            return decoder(codes)

        logits = tf.zeros([20, 3, 2])
        self.make(num_candidates=num_candidates)(logits, loss_fn=loss_fn, training=True)
        index = posteriors.Categorical(logits).index(tf.concat(seen, axis=1))
        assert [len(set(row)) for row in index.numpy()] == [min(num_candidates, 8)] * 20


class TestAveragedCandidates(EstimatorContract):
    configs = ({"num_candidates": 2}, {"num_candidates": 4}, {"decode_all": True})
    sizes = ((1, 7), (2, 3))

    def make(self, **config):
        return estimators.Candidates(**config)

    def expected(self, logits, decoder, **config):
        losses = decoder.losses(*logits.shape)
        return oracles.enumerated_gradient(logits, losses), 0.0


class TestDirect(EstimatorContract):
    configs = (
        *({"epsilon": 1.0, "difference": difference} for difference in direct.DIFFERENCES),
        {"epsilon": 0.3, "difference": "central"},
        {"epsilon": 0.3, "difference": "toward_better", "num_flipped": 2},
        {"epsilon": 0.5, "difference": "away_from_worse", "richardson": True},
    )

    def make(self, **config):
        return estimators.Direct(**{"epsilon": 0.5, **config})

    def expected(self, logits, decoder, epsilon, difference, num_flipped=None, richardson=False):
        del num_flipped  # The flips of a few variables, drawn at random: the same in the mean.
        losses = decoder.losses(*logits.shape)
        near, far = (
            oracles.enumerated_direct_gradient(logits, losses, factor * epsilon, difference)
            for factor in (1, 2)
        )
        return (2 * near - far if richardson else near), 0.0

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
            ({"num_flipped": 0}, "Expected `num_flipped` to be an integer of at least 1"),
            ({"num_flipped": 2, "table": "linearised"}, "Expected table='single_flips' with"),
        ],
    )
    def test_bad_arguments_are_refused(self, config, message):
        with pytest.raises(ValueError, match=message):
            self.make(**config)


class TestExact(EstimatorContract):
    sizes = ((1, 2), (1, 7))
    draws = 4
    deterministic = True
    differentiable = True

    def make(self, **config):
        return estimators.Exact(**config)

    def expected(self, logits, decoder):
        return oracles.enumerated_gradient(logits, decoder.losses(*logits.shape)), 0.0

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


class Unbiased(EstimatorContract):
    def expected(self, logits, decoder, **config):
        del config
        return oracles.enumerated_gradient(logits, decoder.losses(*logits.shape)), 0.0


class TestLocalExpectation(Unbiased):
    configs = ({}, {"num_flipped": 2})

    def make(self, **config):
        return estimators.LocalExpectation(**config)

    def test_one_variable_has_no_variance(self):
        decoder = Decoder(1, 7)
        self.draws = 8
        gradient = self.gradients(self.make(seed=0), np.zeros([1, 7], np.float32), decoder).numpy()
        np.testing.assert_array_equal(gradient, np.tile(gradient[:1], [8, 1, 1]))


class TestScoreFunction(Unbiased):
    configs = ({}, {"num_samples": 2})
    draws = 50_000

    def make(self, **config):
        return estimators.ScoreFunction(**config)

    def test_no_baseline_without_a_second_sample(self):
        with pytest.raises(ValueError, match=r"Expected `num_samples` .* at least 2"):
            self.make(num_samples=1)


class TestDisARM(Unbiased):
    sizes = ((1, 2), (3, 2), (6, 2))
    draws = 50_000

    def make(self, **config):
        return estimators.DisARM(**config)

    def test_more_than_two_categories_are_refused(self):
        with pytest.raises(ValueError, match="Expected binary variables"):
            self.make()(tf.zeros([2, 3]), loss_fn=lambda codes: codes, training=True)


class TestARMS(Unbiased):
    configs = ({"num_samples": 2}, {"num_samples": 5})
    sizes = ((1, 2), (3, 4))
    draws = 50_000

    def make(self, **config):
        return estimators.ARMS(**config)

    @pytest.mark.parametrize("count", [2, 3, 8])
    def test_bits_have_their_probabilities_and_weights(self, count):
        # The share of ones, and that of 1 in the first and 0 in the last copy, p (1 - p) / w.
        # 4 standard errors, 10 figures: fails for 1 set of seeds in 1500.
        log_odds = np.array([-6.0, -1.0, 0.0, 0.5, 3.0], np.float32)
        tiled = tf.tile(log_odds[np.newaxis, np.newaxis], [100_000, 1, 1])
        bits, weight = antithetic_bits(tiled, count, [1, 2])
        p = 1 / (1 + np.exp(-log_odds))
        oracles.assert_mean_is(bits[:, 0], p)
        oracles.assert_mean_is(bits[:, 0] * (1 - bits[:, -1]), p * (1 - p) / weight[0, 0])

    def test_two_copies_of_a_bit_have_the_weight_of_disarm(self):
        logits = tf.constant(np.random.default_rng(0).normal(size=[200, 3, 2]), tf.float32)
        _, weight = antithetic_bits(stopping_log_odds(logits)[:, tf.newaxis], 2, [1, 2])
        expected = tf.sigmoid(tf.abs(logits[..., 1] - logits[..., 0]))
        np.testing.assert_allclose(weight[:, 0, :, 0], expected, rtol=1e-5)

    @pytest.mark.parametrize(("num_categories", "share"), [(2, 0.85), (4, 1.15)])
    def test_variance_against_independent_samples(self, num_categories, share):
        decoder = Decoder(3, num_categories)
        h = np.random.default_rng(0).normal(size=[3, num_categories]).astype(np.float32)
        self.draws = 20_000
        ours, independent = (
            np.var(self.gradients(estimator, h, decoder), axis=0).sum()
            for estimator in (
                self.make(seed=0, num_samples=4),
                estimators.ScoreFunction(seed=0, num_samples=4),
            )
        )
        assert ours < share * independent

    def test_one_sample_is_refused(self):
        with pytest.raises(ValueError, match=r"Expected `num_samples` .* at least 2"):
            self.make(num_samples=1)


class TestDoubleCV(Unbiased):
    configs = ({}, {"num_samples": 4})
    sizes = ((1, 2), (3, 4))
    draws = 50_000

    def make(self, **config):
        return estimators.DoubleCV(**config)

    def test_linear_loss_has_no_variance(self):
        weights = tf.constant(np.random.default_rng(0).normal(size=[3, 4]), tf.float32)
        logits = tf.tile([[[0.3, -1.0, 0.0, 0.2]] * 3], [50, 1, 1])
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = self.make(seed=0)(
                logits, loss_fn=lambda z: tf.einsum("bmnk,nk->bm", z, weights), training=True
            )
        p = tf.nn.softmax(logits)
        exact = p * (weights - tf.reduce_sum(p * weights, axis=-1, keepdims=True))
        np.testing.assert_allclose(tape.gradient(loss, logits), exact, atol=1e-5)

    def test_scale_gets_the_slope_of_the_second_moment(self):
        # A central difference under the same noise: the moment is quadratic, so it is exact.
        decoder = Decoder(3, 4, batch=200)
        logits = tf.constant(np.random.default_rng(0).normal(size=[200, 3, 4]), tf.float32)

        def moment(scale):
            estimator = self.make(seed=1)
            estimator.build(logits.shape)
            estimator.scale.assign(scale)
            with tf.GradientTape() as tape:
                tape.watch(logits)
                loss = tf.reduce_mean(estimator(logits, loss_fn=decoder, training=True))
            slope, own = tape.gradient(loss, [logits, estimator.scale.value])
            return float(tf.reduce_sum((200 * slope) ** 2)) / 200, float(own)

        (above, _), (_, own), (below, _) = (moment(scale) for scale in (0.9, 0.4, -0.1))
        assert above - below == pytest.approx(own, rel=1e-3)

    def test_one_sample_is_refused(self):
        with pytest.raises(ValueError, match=r"Expected `num_samples` .* at least 2"):
            self.make(num_samples=1)


class TestREBAR(Unbiased):
    configs = ({}, {"initial_temperature": 2.0})
    sizes = ((1, 2), (3, 2))
    draws = 50_000

    def make(self, **config):
        return estimators.REBAR(**config)

    @staticmethod
    def slopes(estimator, decoder):
        """Second moment of the gradient towards the logits, and its slopes by the loss."""
        logits = tf.broadcast_to([[0.4, -0.3], [0.0, 1.0], [-0.2, 0.1]], [500, 3, 2])
        with tf.GradientTape() as tape:
            tape.watch(logits)
            losses = estimator(logits, loss_fn=decoder, training=True)
            mean = tf.reduce_mean(losses)
        slope, *own = tape.gradient(mean, [logits, *estimator.trainable_variables])
        return float(tf.reduce_sum((500 * slope[..., 1]) ** 2)) / 500, own

    def test_own_weights_get_the_slope_of_the_second_moment(self):
        # A central difference along a random direction, under the same noise.
        decoder = Decoder(3, 2, batch=500)
        generator = np.random.default_rng(1)
        estimator = self.make(seed=3)
        estimator.build((None, 3, 2))
        weights = estimator.trainable_variables
        directions = [generator.normal(size=weight.shape).astype(np.float32) for weight in weights]
        drawn = estimator.seeds.get_weights()
        moments = []
        for step in (0.0, 1e-2, -2e-2):
            for weight, direction in zip(weights, directions, strict=True):
                weight.assign_add(step * direction)
            estimator.seeds.set_weights(drawn)
            moments.append(self.slopes(estimator, decoder))
        (_, own), (above, _), (below, _) = moments
        along = sum(float(tf.reduce_sum(s * d)) for s, d in zip(own, directions, strict=True))
        assert (above - below) / 2e-2 == pytest.approx(along, rel=2e-2)

    @pytest.mark.slow
    def test_tuned_control_has_less_variance(self):
        decoder = Decoder(3, 2, batch=500)
        estimator = self.make(seed=3)
        before, _ = self.slopes(estimator, decoder)
        optimizer = keras.optimizers.Adam(0.03)
        for _ in range(60):
            _, own = self.slopes(estimator, decoder)
            optimizer.apply(own, estimator.trainable_variables)
        after = np.mean([self.slopes(estimator, decoder)[0] for _ in range(5)])
        assert after < 0.9 * before

    def test_bad_arguments_are_refused(self):
        with pytest.raises(ValueError, match="Expected `initial_temperature` to be greater than 0"):
            self.make(initial_temperature=0.0)
        with pytest.raises(ValueError, match="Expected binary variables"):
            self.make()(tf.zeros([2, 3]), loss_fn=lambda codes: codes, training=True)


class TestRELAX(TestREBAR):
    def make(self, **config):
        return estimators.RELAX(**config)

    def test_no_hidden_units_are_refused(self):
        with pytest.raises(ValueError, match="Expected `hidden_units`"):
            self.make(hidden_units=0)


class TestGumbelSoftmax(EstimatorContract):
    configs = ({}, {"temperature": 0.5, "num_samples": 2})
    sizes = ((1, 2), (3, 4))
    differentiable = True

    def make(self, **config):
        return estimators.GumbelSoftmax(**config)

    def expected(self, logits, decoder, temperature=1.0, num_samples=1):
        samples = oracles.relaxed_gradients(
            logits, temperature, decoder.slope, 100_000, straight_through=False
        )
        return samples.mean(axis=0), oracles.standard_error(samples)

    def test_temperature_is_scheduled_and_reported(self):
        decoder = Decoder(1, 4, batch=2)
        estimator = self.make(temperature=schedules.two_phase(1.0, 0.25, 2), seed=0)
        for step, temperature in ((0, 1.0), (2, 0.25)):
            estimator.report.reset_state()
            estimator(tf.zeros([2, 4]), loss_fn=decoder, step=step, training=True)
            assert float(estimator.report.result()["temperature"]) == temperature

    @pytest.mark.parametrize("name", ["temperature", "num_samples"])
    def test_zero_is_refused(self, name):
        with pytest.raises(ValueError, match=rf"Expected `{name}` .* received 0"):
            self.make(**{name: 0})


class StraightThroughContract(EstimatorContract):
    """Subclasses give `jacobian(h, code, **config)`: h [K], code [M, K] -> [M, K, K]."""

    sizes = ((1, 2), (3, 4))
    differentiable = True

    def expected(self, logits, decoder, **config):
        def jacobian(h, code):
            return self.jacobian(h, code, **config)

        return oracles.straight_through_gradient(logits, decoder.slope, jacobian), 0.0

    def test_decoder_meets_discrete_codes_only(self):
        seen = []

        def loss_fn(codes):
            seen.append(codes.numpy())
            return tf.reduce_sum(codes, axis=[2, 3])

        self.make(seed=0, num_samples=2)(tf.zeros([50, 3, 4]), loss_fn=loss_fn, training=True)
        assert seen[0].shape == (50, 2, 3, 4)
        np.testing.assert_array_equal(
            np.sort(seen[0], axis=-1), np.tile([0, 0, 0, 1], [50, 2, 3, 1])
        )


class TestStraightThrough(StraightThroughContract):
    configs = (
        {"relaxed": "logits"},
        {"relaxed": "logits", "temperature": 0.5},
        {"temperature": 0.5},
        {"num_samples": 3},
    )

    def make(self, **config):
        return estimators.StraightThrough(**config)

    def expected(self, logits, decoder, relaxed="scores", temperature=1.0, num_samples=1):
        if relaxed == "logits":
            return super().expected(logits, decoder, temperature=temperature)
        samples = oracles.relaxed_gradients(
            logits, temperature, decoder.slope, 100_000, straight_through=True
        )
        return samples.mean(axis=0), oracles.standard_error(samples)

    def jacobian(self, h, code, temperature):
        matrix = oracles.softmax_jacobian(oracles.softmax(h / temperature)) / temperature
        return np.tile(matrix, [len(code), 1, 1])

    def test_unknown_relaxation_is_refused(self):
        with pytest.raises(ValueError, match=r"Expected `relaxed` in .* received 'code'"):
            self.make(relaxed="code")


class TestReinMax(StraightThroughContract):
    configs = ({}, {"temperature": 1.3, "num_samples": 2})

    def make(self, **config):
        return estimators.ReinMax(**config)

    def jacobian(self, h, code, temperature=1.0, num_samples=1):
        middle = (oracles.softmax(h / temperature) + code) / 2
        at_end = oracles.softmax_jacobian(oracles.softmax(h))
        return 2 * oracles.softmax_jacobian(middle) - at_end / 2

    def test_unbiased_for_every_quadratic_loss(self):
        # f = z' A z / 2 + z' b, all codes weighted by their probability: nothing is drawn.
        generator = np.random.default_rng(0)
        h = generator.normal(size=[3, 4])
        codes = oracles.all_codes(3, 4).reshape(-1, 12)
        matrix, vector = generator.normal(size=[12, 12]), generator.normal(size=12)
        matrix += matrix.T
        losses = np.sum(codes @ matrix * codes, axis=1) / 2 + codes @ vector
        slopes = (codes @ matrix + vector) * np.exp(
            oracles.log_posterior(h, codes.reshape(-1, 3, 4))
        )[:, np.newaxis]
        logits = tf.constant(h[np.newaxis, np.newaxis], tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            one_hot = tf.constant(codes.reshape([1, -1, 3, 4]), tf.float32)
            surrogate = self.make().surrogate(logits, None, one_hot, 1.0)
            along = tf.reduce_sum(surrogate * slopes.reshape([1, -1, 3, 4]).astype(np.float32))
        exact = oracles.enumerated_gradient(h, losses)
        np.testing.assert_allclose(tape.gradient(along, logits)[0, 0], exact, atol=1e-4)


class TestGumbelRao(StraightThroughContract):
    configs = ({"temperature": 0.5, "num_redraws": 3}, {"num_redraws": 1, "num_samples": 2})

    def make(self, **config):
        return estimators.GumbelRao(**config)

    def expected(self, logits, decoder, temperature=1.0, **more):
        samples = oracles.relaxed_gradients(
            logits, temperature, decoder.slope, 100_000, straight_through=True
        )
        return samples.mean(axis=0), oracles.standard_error(samples)

    def test_cold_it_is_reinmax(self):
        # Given the codes, the mean over the noise; its bias is O(temperature), hence two of them.
        # 4 standard errors, 18 entries: fails for 1 set of seeds in 900.
        code = tf.one_hot([[[0, 1, 2, 0, 1, 2]]], 3)
        generator = np.random.default_rng(0)
        h, upstream = generator.normal(size=[2, 1, 1, 6, 3]).astype(np.float32)

        def slope(estimator, temperature, draws):
            logits = tf.tile(h, [draws, 1, 1, 1])
            with tf.GradientTape() as tape:
                tape.watch(logits)
                codes = tf.tile(code, [draws, 1, 1, 1])
                along = upstream * estimator.surrogate(logits, None, codes, temperature)
            return tape.gradient(along, logits).numpy()

        warm, cold = (slope(self.make(seed=0, num_redraws=10), t, 20_000) for t in (0.1, 0.05))
        oracles.assert_mean_is(2 * cold - warm, slope(estimators.ReinMax(), 1.0, 1)[0])

    def test_redraws_lower_the_variance(self):
        decoder = Decoder(3, 4)
        h = np.random.default_rng(0).normal(size=[3, 4]).astype(np.float32)
        variances = [
            np.var(
                self.gradients(self.make(temperature=0.3, num_redraws=n, seed=0), h, decoder),
                axis=0,
            ).sum()
            for n in (1, 10)
        ]
        assert variances[1] < 0.6 * variances[0]


class TestGST(StraightThroughContract):
    configs = ({"temperature": 0.7, "gap": 0.5}, {})

    def make(self, **config):
        return estimators.GST(**config)

    def jacobian(self, h, code, temperature=1.0, gap=1.0):
        moved = np.where(code == 1, h.max(), np.minimum(h, h.max() - gap))
        return oracles.softmax_jacobian(oracles.softmax(moved / temperature, axis=-1)) / temperature

    def test_negative_gap_is_refused(self):
        with pytest.raises(ValueError, match="Expected `gap`"):
            self.make(gap=-1.0)


class TestIMLE(EstimatorContract):
    configs = ({"epsilon": 1.0}, {"epsilon": 0.3})
    sizes = ((1, 2), (3, 4))
    draws = 50_000

    def make(self, **config):
        return estimators.IMLE(**{"epsilon": 0.5, **config})

    def expected(self, logits, decoder, epsilon):
        samples = oracles.imle_gradients(logits, epsilon, decoder.slope, 100_000)
        return samples.mean(axis=0), oracles.standard_error(samples)

    @pytest.mark.parametrize("table", ["linearised", "all_codes"])
    def test_several_samples_are_those_of_several_examples(self, table):
        # The draws of 2 examples with 3 samples are those of 6 examples, two by two.
        h = tf.constant(np.random.default_rng(0).normal(size=[2, 1, 5]), tf.float32)
        gradients = []
        for count in (1, 3):
            decoder = Decoder(1, 5, batch=2)
            logits = tf.repeat(h, 3 // count, axis=0)
            decoder.offset = tf.repeat(decoder.offset, 3 // count, axis=0)
            with tf.GradientTape() as tape:
                tape.watch(logits)
                estimator = self.make(table=table, num_samples=count, seed=0)
                loss = estimator(logits, loss_fn=decoder, training=True)
            gradients.append(tape.gradient(loss, logits).numpy())
        assert np.any(gradients[1])
        mean = gradients[0].reshape([2, 3, 1, 5]).mean(axis=1)
        np.testing.assert_allclose(gradients[1], mean, atol=1e-6)


class TestAdaptiveIMLE(EstimatorContract):
    configs = ({"initial_step": 0.5}, {"initial_step": 0.1, "num_samples": 2})
    sizes = ((1, 2), (3, 4))
    draws = 50_000

    def make(self, **config):
        return estimators.AdaptiveIMLE(**{"difference": "toward_better", **config})

    def expected(self, logits, decoder, initial_step, num_samples=1):
        codes = oracles.all_codes(*logits.shape)
        slopes = decoder.slope(codes)
        slopes -= slopes.mean(axis=-1, keepdims=True)
        of_codes = np.exp(oracles.log_posterior(logits, codes))
        squared_slope = of_codes @ np.sum(slopes**2, axis=(1, 2))
        # A Gumbel has variance pi^2 / 6; its mean over K of them is taken off.
        squared_score = np.sum((logits - logits.mean(axis=-1, keepdims=True)) ** 2)
        squared_score += np.pi**2 / 6 * logits.shape[0] * (logits.shape[1] - 1)
        epsilon = initial_step * np.sqrt(squared_score / squared_slope)
        samples = oracles.imle_gradients(logits, epsilon, decoder.slope, 100_000)
        return samples.mean(axis=0), oracles.standard_error(samples)

    def test_an_excluded_category_is_no_part_of_the_step(self):
        def slope(mask):
            logits = tf.constant([[0.3, -0.5, mask]] * 500)
            decoder, estimator = Decoder(1, 3, batch=500), self.make(seed=0)
            with tf.GradientTape() as tape:
                tape.watch(logits)
                loss = estimator(logits, loss_fn=decoder, training=True)
            return tape.gradient(loss, logits).numpy()

        assert np.any(slope(-1e9))
        np.testing.assert_allclose(slope(-1e9), slope(-100.0), rtol=1e-5)

    @pytest.mark.parametrize("initial_step", [1e-3, 100.0])
    def test_step_finds_its_target_whatever_the_factor_on_the_loss(self, initial_step):
        decoder = Decoder(6, 3, batch=500)
        decoder.second.assign(1e3 * decoder.second)
        estimator = self.make(target=2.0, initial_step=initial_step, rate=0.1, seed=0)
        call = tf.function(lambda: estimator(logits, loss_fn=decoder, training=True))
        logits = tf.zeros([500, 6, 3])
        for _ in range(150):
            call()
        estimator.report.reset_state()
        for _ in range(20):
            call()
        assert float(estimator.report.result()["nonzeros"]) == pytest.approx(2.0, rel=0.1)

    @pytest.mark.parametrize(("nonzeros", "factor"), [(0.0, 1.3), (4.0, 1 / 1.3)])
    def test_one_call_moves_the_step_by_the_rate(self, nonzeros, factor):
        estimator = self.make(target=1.0, initial_step=0.5, rate=0.3)
        estimator.build((None, 2, 3))
        slope = np.zeros([4, 2, 3], np.float32)
        slope[0] = slope[1, :, 0] = nonzeros  # 6 and 2 entries of it; two examples without any.
        estimator.adapt(tf.constant(slope), tf.constant(0.2))
        assert float(estimator.relative_step) == pytest.approx(0.5 * factor)
        found = {name: float(value) for name, value in estimator.report.result().items()}
        flipped = nonzeros > 0
        expected = {"epsilon": 0.2, "flip_rate": 0.5 * flipped, "nonzeros": 2.0 * flipped}
        assert found == pytest.approx(expected)

    def test_loss_without_slope_has_no_gradient(self):
        logits = tf.zeros([4, 3])
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = self.make()(logits, loss_fn=unaware, training=True)
        np.testing.assert_array_equal(tape.gradient(loss, logits), 0.0)

    def test_bad_arguments_are_refused(self):
        with pytest.raises(ValueError, match=r"Expected `target` to be greater than 0; received 0"):
            self.make(target=0)
        with pytest.raises(ValueError, match="Expected `difference`"):
            self.make(difference="forward")
        with pytest.raises(ValueError, match=r"Expected `target` below 4, .*; received 4"):
            self.make(target=4.0)(tf.zeros([3, 2, 5]), loss_fn=Decoder(2, 5), training=True)

    def test_a_decoder_that_ignores_the_code_moves_the_step_up_to_a_bound(self):
        estimator = self.make(initial_step=999.0)
        for _ in range(2):
            loss = estimator(tf.zeros([4, 3]), loss_fn=unaware, training=True)
        assert np.isfinite(loss).all()
        assert float(estimator.relative_step) == estimator.GREATEST_STEP


def unaware(codes):
    return 0.0 * tf.reduce_sum(codes, axis=[2, 3])


def test_relaxation_converges_to_exact_as_its_temperature():
    # K = 2: the difference of two Gumbels is logistic, so the mean is a one-dimensional integral,
    # here at 2^20 quantiles. Halving the temperature halves the bias.
    decoder = Decoder(1, 2)
    h = np.array([[0.6, -0.2]])
    exact = oracles.enumerated_gradient(h, decoder.losses(1, 2))
    quantiles = (np.arange(2**20) + 0.5) / 2**20
    noise = np.log(quantiles) - np.log1p(-quantiles)
    bias = []
    for temperature in (0.04, 0.02):
        first = 1 / (1 + np.exp(-np.clip((h[0, 0] - h[0, 1] + noise) / temperature, -700, 700)))
        code = np.stack([first, 1 - first], axis=-1)[:, np.newaxis]
        upstream = decoder.slope(code)[:, 0]
        slope = first * (1 - first) * (upstream[:, 0] - upstream[:, 1]) / temperature
        bias.append(abs(slope.mean() - exact[0, 0]))
    assert bias[0] / bias[1] == pytest.approx(2.0, rel=0.15)


def test_every_registered_estimator_is_in_a_contract():
    def contracts(base):
        return {base}.union(*(contracts(subclass) for subclass in base.__subclasses__()))

    made = {
        type(contract().make())
        for contract in contracts(EstimatorContract)
        if hasattr(contract, "make") and contract.__module__ != "test_extending"
    }
    # The one of structured posteriors is tested beside its posterior, test_structured_estimators.
    unstructured = {*estimators.names()} - {"flips"}
    assert made == {type(estimators.get(name)) for name in unstructured}


def test_get():
    assert estimators.get("direct", epsilon=0.5).epsilon == 0.5
    exact = estimators.Exact()
    assert estimators.get(exact) is exact
    with pytest.raises(ValueError, match=r"one of \['adaptive_imle', .*received 'reinforce'"):
        estimators.get("reinforce")
    with pytest.raises(ValueError, match=r"Expected no further arguments .* \['epsilon'\]"):
        estimators.get(exact, epsilon=0.5)


def test_arguments():
    assert {"epsilon", "difference", "seed"} <= estimators.arguments("imle")
    assert {"temperature", "seed"} <= estimators.arguments("straight_through")
    assert "epsilon" not in estimators.arguments("exact")
    assert estimators.arguments("reinforce") == set()


def test_estimate_is_abstract():
    with pytest.raises(NotImplementedError):
        estimators.Estimator()(tf.zeros([1, 2]), loss_fn=lambda codes: codes, training=True)


@pytest.mark.parametrize("name", ["rebar", "relax", "double_cv"])
def test_a_loss_that_does_not_look_at_the_code_has_no_derivative(name):
    estimator = estimators.get(name, seed=0)
    with pytest.raises(ValueError, match="Expected `loss_fn` to be differentiable towards"):
        estimator(tf.zeros([4, 1, 2]), loss_fn=lambda codes: tf.zeros(codes.shape[:2]),
                  training=True)  # fmt: skip
