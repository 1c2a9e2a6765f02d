import numpy as np
import oracles
import pytest
import tensorflow as tf
from posterior_contract import PosteriorContract, all_bits

from tf_direct_opt import posteriors
from tf_direct_opt.posteriors import loops


def test_every_registered_posterior_is_in_the_contract():
    import test_posteriors  # noqa: F401

    contracts = PosteriorContract.__subclasses__()
    tested = {contract.name for contract in contracts if contract.__module__ != "test_extending"}
    # Half of a class and its Gaussian is no code: it has tests of its own.
    assert {*tested, "class_gaussian"} == {*posteriors.names()}


class TestChain(PosteriorContract):
    name = "chain"
    sizes = tuple(
        {"num_variables": t, "num_categories": k} for t, k in ((3, 2), (1, 3), (4, 3), (2, 4))
    )

    def enumerate(self, num_variables, num_categories):
        codes = oracles.all_codes(num_variables, num_categories)
        pairs = np.einsum("mti,mtj->mtij", codes[:, :-1], codes[:, 1:])
        flat = [part.reshape(len(codes), -1) for part in (codes, pairs)]
        return codes, np.concatenate(flat, axis=1)


class TestKSubset(PosteriorContract):
    name = "k_subset"
    sizes = tuple({"num_variables": n, "k": k} for n, k in ((5, 2), (8, 3), (6, 5), (3, 1)))

    def enumerate(self, num_variables, k):
        bits, _ = all_bits(num_variables)
        bits = bits[bits.sum(axis=1) == k]
        return np.stack([1 - bits, bits], axis=-1), bits

    # Drawn by the same routine as a chain, whose test is fast.
    test_xla = pytest.mark.slow(PosteriorContract.test_xla)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("chain", {"num_variables": 25, "num_categories": 3}),
        pytest.param("k_subset", {"num_variables": 50, "k": 10}, marks=pytest.mark.slow),
    ],
)
def test_long_ones_keep_their_precision(name, config):
    # float32 against float64, both through the whole recursion, in loops of the graph.
    family = posteriors.get(name, **config)
    h = np.random.default_rng(0).normal(scale=3.0, size=[3, *family.parameter_shape])

    @tf.function
    def answers(parameters):
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            posterior = family(parameters)
            values = posterior.log_partition(), posterior.entropy()
        slope = tape.gradient(values, parameters)
        scores, codes = posterior.gumbel_top_k(3, [1, 2])
        rest = scores - posterior.score(codes), posterior.sample(2, [1, 2])
        return *values, posterior.marginals(), slope, *rest

    narrow, wide = (answers(tf.constant(h, dtype)) for dtype in (tf.float32, tf.float64))
    assert wide[0].dtype == tf.float64
    for one, other in zip(narrow, wide, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=5e-4)


@pytest.mark.parametrize("limit", [0, 100])
def test_a_loop_is_the_unrolled_recursion(limit, monkeypatch):
    monkeypatch.setattr(loops, "MAX_UNROLLED", limit)

    @tf.function
    def running(values):
        return [
            loops.scan(lambda before, x: before + x, values, tf.constant(0.0), reverse)
            for reverse in (False, True)
        ]

    forwards, backwards = running(tf.constant([1.0, 2.0, 4.0]))
    np.testing.assert_array_equal(forwards, [1.0, 3.0, 7.0])
    np.testing.assert_array_equal(backwards, [7.0, 6.0, 4.0])


def test_the_graph_does_not_grow_with_the_number_of_variables():
    def size(num_variables):
        signature = [tf.TensorSpec([2, num_variables, 64])]

        @tf.function(input_signature=signature)
        def draw(logits):
            return posteriors.Categorical(logits).gumbel_top_k(8, [1, 2])

        return len(draw.get_concrete_function().graph.get_operations())

    assert size(48) == size(24)


def test_candidates_of_many_variables_have_their_scores():
    logits = np.random.default_rng(0).normal(scale=3.0, size=[5, 48, 64]).astype(np.float32)

    @tf.function
    def draw(logits):
        posterior = posteriors.Categorical(logits)
        values, codes = posterior.gumbel_top_k(8, [1, 2])
        return values, codes, posterior.score(codes)

    values, codes, scores = draw(logits)
    assert np.all(np.diff(values) <= 0)
    assert len(np.unique(codes.numpy().reshape(40, -1), axis=0)) == 40
    # What is left is Gumbel noise, the greatest of 64^48 of it.
    np.testing.assert_allclose(values[:, 0], posteriors.Categorical(logits).log_partition(), atol=8)
    assert np.all(scores < values[:, :1] + 8.0)


# A loop of the graph, and unrolled.
@pytest.mark.parametrize("length", [20, pytest.param(3, marks=pytest.mark.slow)])
def test_slopes_are_the_same_in_nested_graphs(length):
    shape = posteriors.Chain.parameter_shape(length, 2)
    parameters = tf.random.stateless_normal([4, *shape], (1, 2))

    def entropy(parameters):
        chain = posteriors.Chain(parameters, length, 2)
        return chain.entropy() + chain.log_partition()

    def slope(function):
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            value = function(parameters)
        return tape.gradient(value, parameters)

    # As users write it, with AutoGraph.
    inner = tf.function(entropy, autograph=True)
    expected, found = slope(entropy), [tf.function(slope, autograph=True)(inner)]
    if length == 20:
        found.append(slope(inner))
    for each in found:
        np.testing.assert_allclose(each, expected, rtol=1e-5, atol=1e-6)
