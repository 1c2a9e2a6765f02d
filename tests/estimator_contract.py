"""What every gradient estimator has to do; a test class inherits it and gives its mean."""

import itertools

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf


class Decoder:
    """A random two-layer scalar decoder: loss_fn(codes) = sum_j w_j tanh(<codes, v_j> + b_bj)."""

    def __init__(self, num_variables, num_categories, batch=1, seed=0):
        generator = np.random.default_rng(seed)
        size, hidden = num_variables * num_categories, 6
        self.first = tf.Variable(generator.normal(size=[size, hidden]).astype(np.float32))
        self.second = tf.Variable(2 * generator.normal(size=[hidden, 1]).astype(np.float32))
        self.offset = tf.constant(generator.normal(size=[batch, 1, hidden]), tf.float32)
        self.weights = [self.first, self.second]

    def __call__(self, codes):
        flat = tf.reshape(codes, [*tf.unstack(tf.shape(codes)[:2]), self.first.shape[0]])
        return tf.squeeze(tf.tanh(flat @ self.first + self.offset) @ self.second, -1)

    def losses(self, num_variables, num_categories):
        """The losses of all codes for the first example: [K^N], float64."""
        codes = oracles.all_codes(num_variables, num_categories).astype(np.float32)
        return self(codes[np.newaxis])[0].numpy().astype(np.float64)

    def slope(self, codes):
        """df/dz at codes [M, N, K] for the first example, by hand in NumPy: [M, N, K]."""
        first, second = self.first.numpy().astype(np.float64), self.second.numpy()[:, 0]
        hidden = np.tanh(codes.reshape(len(codes), -1) @ first + self.offset.numpy()[0, 0])
        return (((1 - hidden**2) * second) @ first.T).reshape(codes.shape)


class EstimatorContract:
    """Subclasses give `make(**config)`, `configs`, `sizes`, `draws` and `expected(...)`."""

    configs = ({},)
    sizes = ((1, 7), (3, 2), (2, 3))  # (N, K)
    draws = 20_000
    deterministic = False
    differentiable = False  # Twice: its loss is a function of the logits.

    def expected(self, logits, decoder, **config):
        """Mean gradient [N, K] for logits [N, K], and the standard error of this oracle."""
        raise NotImplementedError

    @pytest.mark.parametrize(
        "every_pair", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["", "every_pair"]
    )
    def test_mean_gradient_is_its_oracle(self, every_pair):
        # 4 standard errors for each entry; at most 64 entries: fails for 1 set of seeds in 250.
        pairs = list(itertools.product(self.configs, self.sizes))
        if not every_pair:  # Each argument and each size at least once.
            count = max(len(self.configs), len(self.sizes))
            both = zip(itertools.cycle(self.configs), itertools.cycle(self.sizes), strict=False)
            pairs = list(itertools.islice(both, count))
        for config, size in pairs:
            h = np.random.default_rng(7).normal(size=size).astype(np.float32)
            decoder = Decoder(*size)
            expected, error = self.expected(h.astype(np.float64), decoder, **config)
            gradient = self.gradients(self.make(seed=1, **config), h, decoder)
            oracles.assert_mean_is(gradient, expected, error)

    def gradients(self, estimator, h, decoder):
        logits = tf.broadcast_to(h, [self.draws, *h.shape])

        @tf.function
        def gradient():
            with tf.GradientTape() as tape:
                tape.watch(logits)
                loss = estimator(logits, loss_fn=decoder, training=True)
            return tape.gradient(loss, logits)

        # An estimator that decodes shared codes answers for a batch of one: tile its losses.
        decoder.offset = tf.broadcast_to(decoder.offset, [self.draws, 1, 6])
        return gradient()

    def test_decoder_gets_the_gradient_of_the_loss_at_the_codes_used(self):
        # The same seed uses the same codes, whatever the decoder: its gradient is what a finite
        # difference of the loss along a direction of its weights says.
        for num_variables, num_categories in self.sizes[:2]:  # One variable, and several.
            decoder = Decoder(num_variables, num_categories, batch=64)
            shape = [64, num_variables, num_categories]
            logits = tf.constant(np.random.default_rng(1).normal(size=shape), tf.float32)
            with tf.GradientTape() as tape:
                loss = self.make(seed=5)(logits, loss_fn=decoder, training=True)
            gradient = tape.gradient(loss, decoder.weights)
            # Along all weights at once, by as much of the loss for each.
            generator, steepness = np.random.default_rng(2), [tf.norm(g) for g in gradient]
            directions = [
                generator.normal(size=weight.shape).astype(np.float32) * min(steepness) / steep
                for weight, steep in zip(decoder.weights, steepness, strict=True)
            ]
            totals = []
            for step in (1e-2, -2e-2):
                for weight, direction in zip(decoder.weights, directions, strict=True):
                    weight.assign_add(step * direction)
                shifted = self.make(seed=5)(logits, loss_fn=decoder, training=True)
                totals.append(float(tf.reduce_sum(shifted)))
            pairs = list(zip(gradient, directions, strict=True))
            along = sum(float(tf.reduce_sum(g * direction)) for g, direction in pairs)
            scale = min(float(tf.norm(g) * tf.norm(direction)) for g, direction in pairs)
            assert (totals[0] - totals[1]) / 2e-2 == pytest.approx(along, abs=1e-2 * scale)

    @pytest.mark.parametrize("shape", [(4, 2), (4, 1, 2)])
    def test_loss_is_one_number_an_example(self, shape):
        estimator = self.make(seed=0)
        decoder = Decoder(1, 2, batch=4)
        for training in (False, True):
            loss = estimator(tf.zeros(shape), loss_fn=decoder, training=training)
            assert loss.shape == (4,)
            assert loss.dtype == tf.float32

    def test_huge_logits_give_finite_results(self):
        decoder = Decoder(1, 2, batch=3)
        logits = tf.constant([[80.0, -80.0], [-80.0, 80.0], [80.0, 80.0]])
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = self.make(seed=0)(logits, loss_fn=decoder, training=True)
        assert np.isfinite(loss).all()
        assert np.isfinite(tape.gradient(loss, logits)).all()

    @pytest.mark.parametrize(
        "bad", [np.nan, *(pytest.param(bad, marks=pytest.mark.slow) for bad in (np.inf, -np.inf))]
    )
    def test_logits_that_are_not_finite_are_refused(self, bad):
        logits = tf.constant([[0.0, 1.0], [bad, 0.2], [0.5, 0.5]])
        with pytest.raises(tf.errors.InvalidArgumentError, match="Expected finite"):
            self.make(seed=0)(logits, loss_fn=Decoder(1, 2, batch=3), training=True)

    def test_without_training_the_loss_is_that_of_the_most_probable_code(self):
        decoder = Decoder(1, 2, batch=2)
        logits = tf.constant([[0.0, 1.0], [0.3, 0.2]])
        loss = self.make(seed=0)(logits, loss_fn=decoder, training=False)
        every = decoder(tf.eye(2)[tf.newaxis, :, tf.newaxis])
        np.testing.assert_allclose(loss, [every[0, 1], every[1, 0]], rtol=1e-6)

    def test_seed_decides_and_calls_differ(self):
        logits = tf.constant(np.random.default_rng(0).normal(size=[64, 2]), tf.float32)
        decoder = Decoder(1, 2, batch=64)
        runs = []
        for seed in (1, 1, 2):
            estimator = self.make(seed=seed)
            runs.append(
                [estimator(logits, loss_fn=decoder, training=True).numpy() for _ in range(2)]
            )
        np.testing.assert_array_equal(runs[0], runs[1])
        differ = [np.any(runs[0][0] != other) for other in (runs[0][1], runs[2][0])]
        assert differ == [not self.deterministic] * 2

    def test_config_round_trip(self):
        for config in self.configs:
            estimator = self.make(seed=3, **config)
            again = keras.saving.deserialize_keras_object(
                keras.saving.serialize_keras_object(estimator)
            )
            assert again.get_config() == estimator.get_config()

    def test_half_precision_logits_get_half_precision_gradients(self):
        logits = tf.zeros([4, 2], tf.float16)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = self.make(seed=0)(logits, loss_fn=Decoder(1, 2, batch=4), training=True)
        assert loss.dtype == tf.float32
        assert tape.gradient(loss, logits).dtype == tf.float16

    def test_a_second_derivative_is_that_of_a_relaxation_or_refused(self):
        logits = tf.constant([[[0.3, -0.2]]] * 4)
        with tf.GradientTape() as outer:
            outer.watch(logits)
            with tf.GradientTape() as tape:
                tape.watch(logits)
                loss = self.make(seed=0)(logits, loss_fn=Decoder(1, 2, batch=4), training=True)
            slope = tape.gradient(loss, logits)[..., 0]
        if self.differentiable:
            assert np.any(outer.gradient(slope, logits))
        else:
            with pytest.raises(ValueError, match="Expected a first derivative of an argmax"):
                outer.gradient(slope, logits)

    @pytest.mark.parametrize("shape", [(3,), (2, 3, 4, 5)])
    def test_wrong_rank_is_refused(self, shape):
        with pytest.raises(ValueError, match=r"Expected logits of shape \[B, K\] or \[B, N, K\]"):
            self.make()(tf.zeros(shape), loss_fn=lambda codes: codes, training=True)

    def test_one_category_is_refused(self):
        with pytest.raises(ValueError, match="Expected at least 2 categories"):
            self.make()(tf.zeros([3, 1]), loss_fn=lambda codes: codes, training=True)

    def test_missing_loss_fn_is_refused(self):
        with pytest.raises(ValueError, match="Expected `loss_fn`"):
            self.make()(tf.zeros([3, 2]), training=True)
