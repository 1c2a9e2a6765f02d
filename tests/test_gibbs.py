import itertools

import numpy as np
import oracles
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf

from tf_direct_opt import gibbs

SIZES = (1, 2, 3, 6)


def configurations(n):
    """All 2^n configurations [2^n, n], the first bit slowest, and their statistics [2^n, d]."""
    bits = np.array(list(itertools.product([0.0, 1.0], repeat=n)))
    pairs = [bits[:, i] * bits[:, j] for i, j in itertools.combinations(range(n), 2)]
    return bits, np.stack([*bits.T, *pairs], axis=1)


def random_potentials(n, batch=7, seed=0):
    d = n * (n + 1) // 2
    return np.random.default_rng(seed).normal(scale=1.5, size=[batch, d]).astype(np.float32)


def brute_force(h):
    """log Z, p, KL to uniform and mean statistics of potentials [d], in float64."""
    n = int(np.sqrt(2 * len(h)))
    _, statistics = configurations(n)
    scores = statistics @ h.astype(np.float64)
    log_partition = scipy.special.logsumexp(scores)
    log_p = scores - log_partition
    p = np.exp(log_p)
    return log_partition, p, p @ log_p + n * np.log(2), p @ statistics


@pytest.fixture(params=["whole", "in chunks"])
def _chunks(request, monkeypatch):
    if request.param == "in chunks":  # Of three examples: the last of seven is filled up.
        monkeypatch.setattr(gibbs, "_chunk_size", lambda num_variables: 3)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("n", SIZES)
def test_every_quantity_by_enumeration(n):
    h = random_potentials(n)
    log_partition, _, kl, means = map(np.array, zip(*map(brute_force, h), strict=True))
    np.testing.assert_allclose(gibbs.log_partition(h, n), log_partition, rtol=1e-5)
    np.testing.assert_allclose(gibbs.mean_statistics(h, n), means, atol=1e-5)
    np.testing.assert_allclose(gibbs.kl_to_uniform(h, n), kl, atol=1e-4)
    np.testing.assert_allclose(gibbs.entropy(h, n), n * np.log(2) - kl, atol=1e-4)
    both = gibbs.kl_and_mean_statistics(h, n)
    np.testing.assert_allclose(both[0], kl, atol=1e-4)
    np.testing.assert_allclose(both[1], means, atol=1e-5)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("n", SIZES)
def test_gradients_by_finite_differences(n):
    h = random_potentials(n)
    step = 1e-5
    for function, index in ((gibbs.log_partition, 0), (gibbs.kl_to_uniform, 2)):
        potentials = tf.constant(h)
        with tf.GradientTape() as tape:
            tape.watch(potentials)
            # Examples weigh differently: the gradient is linear in what comes from above.
            value = tf.reduce_sum(function(potentials, n) * tf.range(1.0, 8.0))
        gradient = tape.gradient(value, potentials).numpy()
        for i, j in itertools.product(range(len(h)), range(h.shape[1])):
            shift = step * np.eye(h.shape[1])[j]
            high, low = (brute_force(h[i] + s * shift)[index] for s in (1, -1))
            expected = (i + 1) * (high - low) / (2 * step)
            assert gradient[i, j] == pytest.approx(expected, abs=2e-4 * (i + 1))


def test_without_couplings_the_closed_forms_are_the_enumeration():
    h = random_potentials(4)[:, :4]
    padded = np.pad(h, [(0, 0), (0, 6)])
    for function in (gibbs.log_partition, gibbs.entropy, gibbs.kl_to_uniform):
        gradients = []
        for potentials in map(tf.constant, (h, padded)):
            with tf.GradientTape() as tape:
                tape.watch(potentials)
                value = function(potentials, 4)
            gradients.append((value, tape.gradient(value, potentials)[:, :4]))
        for one, other in zip(*gradients, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    means = gibbs.mean_statistics(tf.constant(h), 4)
    np.testing.assert_allclose(means, gibbs.mean_statistics(padded, 4)[:, :4], atol=1e-6)


def test_many_independent_variables_need_no_enumeration():
    h = np.random.default_rng(0).normal(size=[3, 100]).astype(np.float32)
    p = scipy.special.expit(h.astype(np.float64))
    entropy = -np.sum(p * np.log(p) + (1 - p) * np.log1p(-p), axis=1)
    np.testing.assert_allclose(gibbs.entropy(h, 100), entropy, rtol=1e-4)
    assert gibbs.sample(tf.constant(h), 100, 5, [1, 2]).shape == (3, 5, 100)


@pytest.mark.parametrize("n", SIZES)
def test_log_prob_by_enumeration(n):
    h = random_potentials(n)
    bits, _ = configurations(n)
    every = np.tile(bits.astype(np.float32), [len(h), 1, 1])
    expected = np.log([brute_force(row)[1] for row in h])
    np.testing.assert_allclose(gibbs.log_prob(h, every), expected, rtol=1e-4, atol=1e-4)
    alone = gibbs.log_prob(h[:, :n], every)
    np.testing.assert_allclose(tf.reduce_logsumexp(alone, axis=1), np.zeros(7), atol=1e-5)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("couplings", [True, False])
def test_samples_have_the_probabilities(couplings):
    # 20000 draws for each of 7 examples: 112 probabilities within 4 standard errors, which fails
    # for 1 seed in 140.
    n = 4
    h = 0.3 * random_potentials(n)  # No configuration is too rare to be counted.
    if not couplings:
        h[:, n:] = 0
    given = h if couplings else h[:, :n]
    bits = gibbs.sample(tf.constant(given), n, 20_000, [3, 4]).numpy()
    assert bits.shape == (7, 20_000, n)
    index = bits.astype(int) @ (2 ** np.arange(n)[::-1])
    for i in range(len(h)):
        oracles.assert_mean_is(np.eye(2**n)[index[i]], brute_force(h[i])[1])
    np.testing.assert_array_equal(bits, gibbs.sample(tf.constant(given), n, 20_000, [3, 4]))
    assert np.any(bits != gibbs.sample(tf.constant(given), n, 20_000, [4, 4]).numpy())


@pytest.mark.usefixtures("_chunks")
def test_gumbel_top_k_of_all_has_independent_gumbels():
    # All 2^n configurations return, and their scores less their potentials are what was drawn:
    # Kolmogorov and Smirnov's test of 7 * 16 * 500 of them, and no correlation of two
    # configurations beyond 5 / sqrt(3500). Fails for 1 seed in 1000, and 1 in 10000.
    n, repeats = 4, 500
    h = random_potentials(n)
    _, statistics = configurations(n)
    draw = tf.function(lambda seed: gibbs.gumbel_top_k(tf.constant(h), n, 2**n, seed))
    noise = []
    for repeat in range(repeats):
        values, drawn = draw(tf.constant([repeat, 3]))
        index = drawn.numpy().astype(int) @ (2 ** np.arange(n)[::-1])
        assert np.all(np.diff(values) <= 0)
        np.testing.assert_array_equal(np.sort(index), np.tile(np.arange(2**n), [len(h), 1]))
        in_order = np.take_along_axis(values.numpy(), np.argsort(index), axis=1)
        noise.append(in_order - h @ statistics.T)
    noise = np.concatenate(noise)
    gumbel = scipy.stats.gumbel_r(loc=-np.euler_gamma)
    assert scipy.stats.kstest(noise.ravel(), gumbel.cdf).pvalue > 1e-3
    correlation = np.corrcoef(noise.T) - np.eye(2**n)
    assert np.abs(correlation).max() < 5 / np.sqrt(len(noise))


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("n", [1, 3])
def test_gumbel_top_k_draws_without_replacement(n):
    # The ordered pair of the two best has probability p_i p_j / (1 - p_i). 20000 draws, 2 and 56
    # pairs within 4 standard errors: fails for 1 seed in 250.
    h = 0.5 * random_potentials(n, 1)
    p = brute_force(h[0])[1]
    tiled = tf.tile(tf.constant(h), [20_000, 1])
    draw = tf.function(lambda seed: gibbs.gumbel_top_k(tiled, n, 2, seed))
    values, bits = draw(tf.constant([1, 2]))
    assert values.shape == (20_000, 2)
    index = bits.numpy().astype(int) @ (2 ** np.arange(n)[::-1])
    pairs = np.eye(4**n)[index[:, 0] * 2**n + index[:, 1]]
    law = np.outer(p, p) / (1 - p)[:, np.newaxis]
    np.fill_diagonal(law, 0)
    seen = law.ravel() > 0
    assert not pairs[:, ~seen].any()
    oracles.assert_mean_is(pairs[:, seen], law.ravel()[seen])
    again, other = (draw(tf.constant(seed))[0] for seed in ([1, 2], [2, 2]))
    np.testing.assert_array_equal(values, again)
    assert np.all(values != other)


def test_gumbel_top_k_of_potentials_far_apart():
    # Row sums underflow, and conditional noise cancels in another order of operations.
    h = tf.constant([[300.0, -300.0, 300.0, 0.0, 0.0, 0.0], [-1e4, 1e4, 0.0, 0.0, 3.0, 0.0]])
    values, bits = gibbs.gumbel_top_k(h, 3, 8, [1, 2])
    assert np.all(np.isfinite(values))
    scores = tf.linalg.matvec(bits, h[:, :3]).numpy() + 3.0 * (bits[..., 0] * bits[..., 2]).numpy()
    scores[0] = tf.linalg.matvec(bits[0], h[0, :3])
    np.testing.assert_allclose(values, scores, atol=20, rtol=1e-3)


def test_a_batch_of_unknown_size():
    @tf.function(input_signature=[tf.TensorSpec([None, 6])])
    def quantities(potentials):
        return gibbs.kl_to_uniform(potentials, 3), gibbs.sample(potentials, 3, 2, [0, 0])

    for batch in (1, 5):
        h = random_potentials(3, batch)
        kl, bits = quantities(h)
        np.testing.assert_allclose(kl, [brute_force(row)[2] for row in h], atol=1e-4)
        assert bits.shape == (batch, 2, 3)


def test_huge_potentials_and_half_precision_are_finite():
    h = tf.constant([[100.0, -100.0, 100.0], [-100.0, -100.0, -100.0]], tf.float16)
    with tf.GradientTape() as tape:
        tape.watch(h)
        kl = gibbs.kl_to_uniform(h, 2)
    assert kl.dtype == tf.float32
    gradient = tape.gradient(kl, h)
    assert gradient.dtype == tf.float16
    # (1, 0) and (1, 1) tie in the first, (0, 0) stands alone in the second.
    np.testing.assert_allclose(kl, [np.log(2), np.log(4)], rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_xla_gives_the_same():
    h = tf.constant(random_potentials(5))
    compiled = tf.function(gibbs.kl_to_uniform, jit_compile=True)(h, 5)
    np.testing.assert_allclose(compiled, gibbs.kl_to_uniform(h, 5), rtol=1e-4)


@pytest.mark.parametrize("shape", [(3, 5), (6,), (2, 3, 6)])
def test_potentials_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"Expected potentials \[B, 6\] of 3 coupled variables"):
        gibbs.log_partition(tf.zeros(shape), 3)


def test_more_variables_than_can_be_enumerated_are_refused():
    with pytest.raises(ValueError, match="Expected `num_variables` to be an integer from 1 to 20"):
        gibbs.log_partition(tf.zeros([1, 231]), 21)
