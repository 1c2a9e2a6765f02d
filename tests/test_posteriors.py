import numpy as np
import oracles
import pytest
import scipy.special
import tensorflow as tf
from posterior_contract import PosteriorContract, all_bits

from tf_direct_opt import posteriors
from tf_direct_opt.posteriors import Categorical, ClassGaussian, PairwiseBinary, pairwise_binary


class TestCategorical(PosteriorContract):
    name = "categorical"
    sizes = tuple(
        {"num_variables": n, "num_categories": k} for n, k in ((2, 3), (1, 7), (3, 2), (4, 4))
    )

    def enumerate(self, num_variables, num_categories):
        codes = oracles.all_codes(num_variables, num_categories)
        return codes, codes

    def test_one_variable_may_come_without_its_axis(self):
        assert Categorical(tf.zeros([2, 5])).mode().shape == (2, 1, 5)


class TestIndependentBinary(PosteriorContract):
    name = "pairwise_binary"
    sizes = tuple({"num_variables": n, "couplings": False} for n in (4, 1, 10))

    def enumerate(self, num_variables, couplings):
        bits, _ = all_bits(num_variables)
        return np.stack([1 - bits, bits], axis=-1), bits

    def test_many_need_no_enumeration(self):
        h = np.random.default_rng(0).normal(size=[3, 100]).astype(np.float32)
        p = scipy.special.expit(h.astype(np.float64))
        entropy = -np.sum(p * np.log(p) + (1 - p) * np.log1p(-p), axis=1)
        posterior = PairwiseBinary(tf.constant(h), 100)
        np.testing.assert_allclose(posterior.entropy(), entropy, rtol=1e-4)
        assert posterior.sample(5, [1, 2]).shape == (3, 5, 100, 2)


class TestPairwiseBinary(PosteriorContract):
    name = "pairwise_binary"
    sizes = tuple({"num_variables": n} for n in (4, 2, 3, 7))

    def enumerate(self, num_variables):
        bits, statistics = all_bits(num_variables)
        return np.stack([1 - bits, bits], axis=-1), statistics

    def test_mean_statistics(self):
        config = self.sizes[0]
        h = self.parameters(config)
        *_, log_q = self.quantities(config, h)
        _, statistics = self.enumerate(**config)
        means = PairwiseBinary(tf.constant(h), 4).mean_statistics()
        np.testing.assert_allclose(means, np.exp(log_q) @ statistics, atol=1e-5)

    def test_without_couplings_the_closed_forms_are_the_enumeration(self):
        h = self.parameters(self.sizes[0])[:, :4]
        padded = np.pad(h, [(0, 0), (0, 6)])
        for name in ("log_partition", "entropy", "kl_to_uniform"):
            gradients = []
            for potentials in map(tf.constant, (h, padded)):
                with tf.GradientTape() as tape:
                    tape.watch(potentials)
                    value = getattr(PairwiseBinary(potentials, 4), name)()
                gradients.append((value, tape.gradient(value, potentials)[:, :4]))
            for one, other in zip(*gradients, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-5)

    def test_marginals_of_confident_posteriors_are_probabilities(self):
        # Summed over 2^8 configurations they round to more than 1, of which the code perplexity
        # took the logarithm.
        h = 5 * np.random.default_rng(0).normal(size=[200, 36]).astype(np.float32)
        marginals = PairwiseBinary(tf.constant(h), 8).marginals()
        assert (np.min(marginals), np.max(marginals)) == (0.0, 1.0)

    def test_one_enumeration_serves_all_that_ask(self, monkeypatch):
        calls = []
        enumerated = pairwise_binary._enumerated_moments
        monkeypatch.setattr(
            pairwise_binary,
            "_enumerated_moments",
            lambda *given: calls.append(1) or enumerated(*given),
        )
        posterior = PairwiseBinary(tf.constant(self.parameters(self.sizes[0])), 4)
        posterior.log_partition(), posterior.kl_to_uniform(), posterior.entropy()
        posterior.marginals(), posterior.log_prob(posterior.mode()[:, tf.newaxis])
        assert len(calls) == 1

    def test_more_variables_than_can_be_enumerated(self):
        with pytest.raises(ValueError, match="Expected `num_variables` to be an integer from 1 to"):
            PairwiseBinary(tf.zeros([1, 231]), 21)
        h = np.random.default_rng(0).normal(size=[2, 231]).astype(np.float32)
        posterior = PairwiseBinary(tf.constant(h), 21, solver=tf.identity, unary_density=True)
        unary = PairwiseBinary(tf.constant(h[:, :21]), 21)
        np.testing.assert_array_equal(posterior.kl_to_uniform(), unary.kl_to_uniform())
        np.testing.assert_array_equal(posterior.marginals(), unary.marginals())


class TestPairwiseBinaryInChunks(PosteriorContract):
    name = "pairwise_binary"
    sizes = ({"num_variables": 4},)
    enumerate = TestPairwiseBinary.enumerate
    test_xla = None
    pair_draws = 2_000

    @pytest.fixture(autouse=True)
    def _chunks_of_three(self, monkeypatch):
        # The last chunk of five examples is filled up.
        monkeypatch.setattr(pairwise_binary, "_chunk_size", lambda num_variables: 3)


def test_class_and_gaussians():
    generator = np.random.default_rng(0)
    logits, mean, scale = (generator.normal(size=[5, *s]) for s in ([4], [4, 3], [4, 3]))
    flat = [part.reshape(5, -1) for part in (logits, mean, scale)]
    posterior = ClassGaussian(tf.constant(np.concatenate(flat, axis=1), tf.float32), 4, 3)
    deviation = np.log1p(np.exp(scale)) + 1e-4
    kl = (0.5 * (mean**2 + deviation**2 - 1) - np.log(deviation)).sum(axis=-1)
    np.testing.assert_allclose(posterior.component_kl(), kl, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(posterior.marginals()[:, 0], oracles.softmax(logits, 1), atol=1e-6)
    code, gaussian = posterior.mode()
    best = logits.argmax(axis=1)
    np.testing.assert_array_equal(code[:, 0], np.eye(4)[best])
    np.testing.assert_allclose(gaussian, mean[np.arange(5), best], rtol=1e-6)
    assert posteriors.get("class_gaussian", num_categories=4, gaussian_dim=3).parameter_shape == (
        4 * 7,
    )
    with pytest.raises(ValueError, match=r"Expected parameters \[B, 28\] of a class and its Gau"):
        ClassGaussian(tf.zeros([2, 27]), 4, 3)


def test_unknown_names_are_refused():
    for given in ("gibbs", 3, {"name": "chain"}):
        with pytest.raises(ValueError, match="Expected `posterior` to be one of"):
            posteriors.get(given)
