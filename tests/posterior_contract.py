"""What every posterior has to answer; a test class inherits it and enumerates configurations."""

import functools
import itertools
import json

import numpy as np
import oracles
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf

from tf_direct_opt import posteriors


class PosteriorContract:
    """Subclasses give `name`, `sizes` and `enumerate`.

    A size is the config of `posteriors.get`. The first size has no more than 20 configurations:
    the laws of draws are tested there.
    """

    name: str
    sizes: tuple[dict, ...]
    batch = 5
    pair_draws = 20_000

    def enumerate(self, **config):
        """All configurations, the lowest first: codes [M, N, K] and statistics [M, *parameters]."""
        raise NotImplementedError

    # The oracle, float64.

    def parameters(self, config, scale=1.5, seed=0):
        shape = [self.batch, *posteriors.get(self.name, **config).parameter_shape]
        draw = np.random.default_rng(seed).normal(scale=scale, size=shape)
        return draw.astype(np.float32)

    def scores(self, config, h):
        """h . s(z) of every configuration: [B, M]."""
        _, statistics = self.enumerate(**config)
        flat = h.reshape(len(h), -1).astype(np.float64)
        return flat @ statistics.reshape(len(statistics), -1).T

    def quantities(self, config, h):
        """log Z, entropy, KL to uniform, marginals, log q of parameters [B, ...]."""
        codes, _ = self.enumerate(**config)
        scores = self.scores(config, h)
        log_partition = scipy.special.logsumexp(scores, axis=1)
        log_q = scores - log_partition[:, np.newaxis]
        entropy = -np.sum(np.exp(log_q) * log_q, axis=1)
        marginals = np.tensordot(np.exp(log_q), codes, 1)
        return log_partition, entropy, np.log(len(codes)) - entropy, marginals, log_q

    # The questions.

    def test_every_quantity_by_enumeration(self):
        for config in self.sizes:
            h = self.parameters(config)
            posterior = posteriors.get(self.name, **config)(tf.constant(h))
            codes, _ = self.enumerate(**config)
            log_partition, entropy, kl, marginals, log_q = self.quantities(config, h)
            every = codes[np.newaxis].astype(np.float32)
            tolerance = {"rtol": 1e-5, "atol": 2e-5}
            np.testing.assert_allclose(posterior.log_partition(), log_partition, **tolerance)
            np.testing.assert_allclose(posterior.entropy(), entropy, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(posterior.kl_to_uniform(), kl, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(posterior.marginals(), marginals, **tolerance)
            np.testing.assert_allclose(posterior.log_prob(every), log_q, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(posterior.probabilities(), np.exp(log_q), atol=1e-5)
            np.testing.assert_allclose(posterior.score(every), self.scores(config, h), atol=1e-4)
            np.testing.assert_array_equal(posterior.mode(), codes[log_q.argmax(axis=1)])

    def test_configurations_are_numbered_as_they_are_enumerated(self):
        for config in self.sizes:
            codes, _ = self.enumerate(**config)
            posterior = posteriors.get(self.name, **config)(self.parameters(config))
            assert posterior.num_configurations == len(codes)
            assert posterior.parameters.shape[1:] == self.parameters(config).shape[1:]
            every = tf.range(len(codes))
            np.testing.assert_array_equal(posterior.configurations(every), codes)
            np.testing.assert_array_equal(posterior.index(codes.astype(np.float32)), every)

    def test_gradients_by_finite_differences_in_float64(self):
        step, weights = 1e-5, np.arange(1.0, self.batch + 1)
        for config in self.sizes:
            h = self.parameters(config)
            for name, index in (("log_partition", 0), ("entropy", 1), ("kl_to_uniform", 2)):
                parameters = tf.constant(h)
                with tf.GradientTape() as tape:
                    tape.watch(parameters)
                    value = getattr(posteriors.get(self.name, **config)(parameters), name)()
                    # Examples weigh differently: linear in what comes from above.
                    total = tf.reduce_sum(value * tf.constant(weights, tf.float32))
                gradient = tape.gradient(total, parameters).numpy().reshape(self.batch, -1)
                for j, shift in enumerate(step * np.eye(gradient.shape[1])):
                    moved = (
                        self.quantities(config, h + s * shift.reshape(1, *h.shape[1:]))[index]
                        for s in (1.0, -1.0)
                    )
                    expected = weights * np.subtract(*moved) / (2 * step)
                    np.testing.assert_allclose(gradient[:, j], expected, atol=2e-4 * self.batch)

    def test_samples_have_the_probabilities(self):
        # 20000 draws for each of 5 examples: at most 100 probabilities within 4 standard errors,
        # which fails for 1 seed in 150.
        config = self.sizes[0]
        h = self.parameters(config, scale=0.5)
        posterior = posteriors.get(self.name, **config)(tf.constant(h))
        draw = tf.function(lambda seed: posterior.index(posterior.sample(20_000, seed)))
        *_, log_q = self.quantities(config, h)
        index = draw(tf.constant([3, 4])).numpy()
        for i in range(self.batch):
            oracles.assert_mean_is(np.eye(log_q.shape[1])[index[i]], np.exp(log_q[i]))
        np.testing.assert_array_equal(index, draw(tf.constant([3, 4])))
        assert np.any(index != draw(tf.constant([4, 4])).numpy())

    def test_top_k_of_all_has_independent_gumbels(self):
        # All configurations return, and their scores less what they had are what was drawn:
        # Kolmogorov and Smirnov's test of 5 * M * 400 of them, and no correlation of two
        # configurations beyond 5 / sqrt(2000). Fails for 1 seed in 1000, and 1 in 10000.
        config, repeats = self.sizes[0], 400
        h = self.parameters(config)
        family, scores = posteriors.get(self.name, **config), self.scores(config, h)
        count = scores.shape[1]

        @tf.function
        def draw(seed):
            posterior = family(tf.constant(np.tile(h, [repeats] + [1] * (h.ndim - 1))))
            values, codes = posterior.gumbel_top_k(count, seed)
            return values, posterior.index(codes)

        values, index = (part.numpy() for part in draw(tf.constant([1, 3])))
        assert np.all(np.diff(values) <= 0)
        np.testing.assert_array_equal(
            np.sort(index), np.tile(np.arange(count), [self.batch * repeats, 1])
        )
        in_order = np.take_along_axis(values, np.argsort(index), axis=1)
        noise = in_order - np.tile(scores, [repeats, 1])
        gumbel = scipy.stats.gumbel_r(loc=-np.euler_gamma)
        assert scipy.stats.kstest(noise.ravel(), gumbel.cdf).pvalue > 1e-3
        correlation = np.corrcoef(noise.T) - np.eye(count)
        assert np.abs(correlation).max() < 5 / np.sqrt(len(noise))

    def test_top_k_draws_without_replacement(self):
        # The ordered pair of the two best has probability p_i p_j / (1 - p_i). `pair_draws`, the
        # pairs that are expected 100 times or more within 4 standard errors, 60 at most: fails for
        # 1 seed in 250.
        config = self.sizes[0]
        h = self.parameters(config, scale=0.5)[:1]
        *_, log_q = self.quantities(config, h)
        p = np.exp(log_q[0])
        family, draws = posteriors.get(self.name, **config), self.pair_draws

        @tf.function
        def draw(seed):
            posterior = family(tf.constant(np.tile(h, [draws] + [1] * (h.ndim - 1))))
            values, codes = posterior.gumbel_top_k(2, seed)
            return values, posterior.index(codes)

        values, index = draw(tf.constant([1, 2]))
        law = np.outer(p, p) / (1 - p)[:, np.newaxis]
        np.fill_diagonal(law, 0)
        seen = law.ravel() * draws >= 100
        pair = index[:, 0].numpy() * len(p) + index[:, 1].numpy()
        assert np.all(law.ravel()[pair] > 0)
        oracles.assert_mean_is(np.eye(len(p) ** 2)[pair][:, seen], law.ravel()[seen])
        np.testing.assert_array_equal(values, draw(tf.constant([1, 2]))[0])
        assert np.all(values != draw(tf.constant([2, 2]))[0])

    def test_parameters_far_apart(self):
        # Masses underflow, and conditional noise cancels in another order of operations.
        config = self.sizes[0]
        h = self.parameters(config, scale=300.0)
        posterior = posteriors.get(self.name, **config)(tf.constant(h))
        values, codes = posterior.gumbel_top_k(posterior.num_configurations, [1, 2])
        assert np.all(np.isfinite(values))
        index = posterior.index(codes).numpy()
        scores = np.take_along_axis(self.scores(config, h), index, axis=1)
        np.testing.assert_allclose(values, scores, atol=20, rtol=1e-3)
        log_partition, _, kl, _, _ = self.quantities(config, h)
        np.testing.assert_allclose(posterior.log_partition(), log_partition, rtol=1e-4)
        np.testing.assert_allclose(posterior.kl_to_uniform(), kl, atol=1e-2)

    def test_half_precision_is_computed_in_float32(self):
        config = self.sizes[0]
        h = tf.constant(self.parameters(config, scale=20.0), tf.float16)
        with tf.GradientTape() as tape:
            tape.watch(h)
            kl = posteriors.get(self.name, **config)(h).kl_to_uniform()
        gradient = tape.gradient(kl, h)
        assert (kl.dtype, gradient.dtype) == (tf.float32, tf.float16)
        np.testing.assert_allclose(kl, self.quantities(config, h.numpy())[2], atol=1e-3)
        assert np.isfinite(gradient).all()

    def test_a_batch_of_unknown_size(self):
        config = self.sizes[-1]
        family = posteriors.get(self.name, **config)
        h = self.parameters(config)

        def answers(parameters):
            posterior = family(parameters)
            drawn = posterior.sample(3, [1, 2])
            return posterior.kl_to_uniform(), drawn, *posterior.gumbel_top_k(2, [5, 6])

        signature = [tf.TensorSpec([None, *h.shape[1:]])]
        unknown = tf.function(answers, input_signature=signature)(h)
        for got, expected in zip(unknown, answers(h), strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-4)

    def test_xla(self):
        config = self.sizes[0]
        h = self.parameters(config)

        @tf.function(jit_compile=True)
        def answers(parameters):
            posterior = posteriors.get(self.name, **config)(parameters)
            return posterior.kl_to_uniform(), posterior.mode(), *posterior.gumbel_top_k(2, [5, 6])

        kl, mode, values, codes = answers(h)
        codes_of_all, _ = self.enumerate(**config)
        _, _, expected, _, log_q = self.quantities(config, h)
        np.testing.assert_allclose(kl, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(mode, codes_of_all[log_q.argmax(axis=1)])
        # XLA draws other noise from the same seed.
        assert np.isfinite(values).all()
        assert np.all(np.any(codes[:, 0] != codes[:, 1], axis=(1, 2)))

    @pytest.mark.parametrize(
        "ask",
        ["sample", *(pytest.param(a, marks=pytest.mark.slow) for a in ("mode", "gumbel_top_k"))],
    )
    def test_parameters_that_are_not_finite_give_no_code(self, ask):
        arguments = () if ask == "mode" else (1, [1, 2])
        h = self.parameters(self.sizes[0])
        h.reshape(self.batch, -1)[1, -1] = np.nan
        posterior = posteriors.get(self.name, **self.sizes[0])(tf.constant(h))
        with pytest.raises(tf.errors.InvalidArgumentError, match="Expected finite"):
            getattr(posterior, ask)(*arguments)

    def test_another_shape_is_refused(self):
        for config in self.sizes:
            family = posteriors.get(self.name, **config)
            *rest, last = family.parameter_shape
            for shape in ((), (2, *rest, last + 1), (2, 3, 4, *rest, last)):
                with pytest.raises(ValueError, match=r"^Expected (parameters|logits) \[B, "):
                    family(tf.zeros(shape))

    def test_a_family_is_written_and_read(self):
        for config in self.sizes:
            family = posteriors.get(self.name, **config)
            assert posteriors.get(json.loads(json.dumps(family.get_config()))) == family
            assert family.num_variables == self.enumerate(**config)[0].shape[1]
            assert family.num_categories == self.enumerate(**config)[0].shape[2]
        with pytest.raises(ValueError, match="Expected the arguments of the posterior"):
            posteriors.get(self.name, colour="red")


@functools.cache
def all_bits(n):
    """All 2^n configurations [2^n, n], the first bit slowest, and their statistics [2^n, d]."""
    bits = np.array(list(itertools.product([0.0, 1.0], repeat=n)))
    pairs = [bits[:, i] * bits[:, j] for i, j in itertools.combinations(range(n), 2)]
    return bits, np.stack([*bits.T, *pairs], axis=1)
