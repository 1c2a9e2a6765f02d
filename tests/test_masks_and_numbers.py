"""Masks, numbers of configurations and dtypes that a posterior takes or refuses."""

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf

from tf_direct_opt import direct, estimators, models, posteriors, solvers

FAMILIES = {
    "categorical": {"num_variables": 2, "num_categories": 3},
    "chain": {"num_variables": 3, "num_categories": 2},
    "k_subset": {"num_variables": 5, "k": 2},
    "pairwise_binary": {"num_variables": 3},
}


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "mask", [pytest.param(-1e9, marks=SLOW), pytest.param(-1e10, marks=SLOW), -1e30]
)
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_masked_is_drawn_last_and_once(name, mask):
    family = posteriors.get(name, **FAMILIES[name])
    h = np.random.default_rng(0).normal(size=[20, *family.parameter_shape]).astype(np.float32)
    h.reshape([20, -1])[:, 1] = mask
    posterior = family(tf.constant(h))
    count = posterior.num_configurations
    _, codes = posterior.gumbel_top_k(count, [1, 2])
    numbers = posterior.index(codes).numpy()
    np.testing.assert_array_equal(np.sort(numbers), np.tile(np.arange(count), [20, 1]))
    masked = np.diff(posterior.log_prob(codes).numpy() < 0.5 * mask, axis=1)
    np.testing.assert_array_equal(masked.sum(axis=1), np.ones(20))


@pytest.mark.parametrize("num_candidates", [5, 8, 9])
def test_the_gradient_under_a_mask_is_that_of_what_is_left(num_candidates):
    # Two variables of three categories, one of each masked; 4 standard errors for each entry.
    logits = np.array([[0.0, 0.5, -1e10], [0.3, 0.0, -1e10]], np.float32)
    losses = np.random.default_rng(1).normal(size=[3, 3])
    every = oracles.all_codes(2, 3)
    table = tf.constant(losses, tf.float32)
    estimator = estimators.Candidates(num_candidates=num_candidates, seed=0)
    given = tf.Variable(np.tile(logits, [4000, 1, 1]))
    with tf.GradientTape() as tape:
        loss = estimator(
            given,
            loss_fn=lambda codes: tf.einsum(
                "bmi,bmj,ij->bm", codes[:, :, 0], codes[:, :, 1], table
            ),
            training=True,
        )
    q = np.exp(np.einsum("mnk,nk->m", every, logits.astype(np.float64)))
    q /= q.sum()
    f = np.einsum("mi,mj,ij->m", every[:, 0], every[:, 1], losses)
    marginals = np.einsum("m,mnk->nk", q, every)
    expected = np.einsum("m,m,mnk->nk", q, f, every) - (q @ f) * marginals
    oracles.assert_mean_is(tape.gradient(loss, given), expected)


def test_numbers_that_do_not_fit_are_refused():
    wide = posteriors.KSubset(tf.zeros([1, 60]), 60, 30)
    codes = wide.sample(1, [1, 2])
    with pytest.raises(ValueError, match=r"Expected at most 2147483647 configurations .* int32"):
        wide.index(codes)
    with pytest.raises(ValueError, match=r"received 1.18e\+17"):
        wide.configurations(tf.constant([0]))
    assert wide.configurations(tf.constant([0], tf.int64)).numpy()[0, :, 1].sum() == 30
    bits = posteriors.Categorical(tf.zeros([1, 40, 2]))
    with pytest.raises(ValueError, match="Expected at most 2147483647 configurations"):
        bits.configurations(tf.constant([0]))
    last = bits.configurations(tf.constant([2**40 - 1], tf.int64)).numpy()
    np.testing.assert_array_equal(last[0, :, 1], np.ones(40))


def test_numbers_of_subsets_with_most_elements():
    # The table of binomials has entries beyond int32 that none of the 2,415 subsets asks for.
    most = posteriors.KSubset(tf.zeros([1, 70]), 70, 68)
    every = tf.range(most.num_configurations)
    codes = most.configurations(every)
    assert np.all(codes[..., 1].numpy().sum(axis=1) == 68)
    np.testing.assert_array_equal(most.index(codes), every)


@pytest.mark.parametrize("name", FAMILIES)
def test_more_than_there_are_cannot_be_drawn(name):
    family = posteriors.get(name, **FAMILIES[name])
    posterior = family(tf.zeros([2, *family.parameter_shape]))
    with pytest.raises(ValueError, match="Expected `count` from 1 to the"):
        posterior.gumbel_top_k(posterior.num_configurations + 1, [1, 2])


@pytest.mark.parametrize(
    "config", [{}, {"epsilon": 0.1}, {"averaged": False}, {"decode_all": True}], ids=str
)
def test_candidates_of_potentials_in_float64(config):
    family = posteriors.get("chain", **FAMILIES["chain"])
    h = np.random.default_rng(0).normal(size=[6, *family.parameter_shape])
    slopes = []
    for dtype in (tf.float32, tf.float64):
        potentials = tf.Variable(h, dtype=dtype)
        estimator = estimators.Candidates(family, 4, seed=0, **config)
        with tf.GradientTape() as tape:
            loss = estimator(
                potentials, loss_fn=lambda z: tf.cast(z[..., 0, 0], tf.float32), training=True
            )
        slopes.append(tape.gradient(loss, potentials))
        assert slopes[-1].dtype == dtype
    np.testing.assert_allclose(*slopes, atol=1e-5)


@pytest.mark.slow  # Other models do, in tests/test_own_parts.py.
def test_a_chain_trains_under_float64():
    keras.config.set_dtype_policy("float64")
    model = models.PosteriorVAE(posteriors.get("chain", **FAMILIES["chain"]), hidden_units=5)
    model.compile("adam")
    images = np.eye(4)[:, :, np.newaxis] * np.ones(3)
    assert np.isfinite(model.fit(images, verbose=0).history["loss"]).all()
    assert np.isfinite(list(model.evaluate(images, verbose=0, return_dict=True).values())).all()


def test_a_solver_of_a_posterior_is_saved_with_it(tmp_path):
    family = posteriors.get(
        "pairwise_binary", num_variables=3, solver=solvers.PairwiseBinaryMILP(3)
    )
    assert posteriors.get(family.get_config()) == family
    assert family != posteriors.get("pairwise_binary", num_variables=3)
    model = models.PosteriorVAE(family, hidden_units=4)
    model.build((None, 2, 2))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    images = np.ones([2, 2, 2], np.float32)
    np.testing.assert_array_equal(
        again.predict(images, verbose=0)["code"], model.predict(images, verbose=0)["code"]
    )
    own = posteriors.get("pairwise_binary", num_variables=3, solver=lambda scores: scores)
    with pytest.raises(ValueError, match="Expected a solver with a name in a posterior that is s"):
        own.get_config()


def test_families_are_equal_whatever_was_left_out():
    pairwise = posteriors.get("pairwise_binary", num_variables=3)
    again = posteriors.get("pairwise_binary", num_variables=3, couplings=True)
    assert pairwise == again
    assert hash(pairwise) == hash(again)
    assert pairwise != posteriors.get("pairwise_binary", num_variables=3, couplings=False)
    assert pairwise != posteriors.get("pairwise_binary", num_variables=4)


def test_candidates_are_of_codes_alone():
    mixture = posteriors.get("class_gaussian", num_categories=3, gaussian_dim=2)
    with pytest.raises(ValueError, match="Expected a `posterior` with `gumbel_top_k`"):
        estimators.Candidates(mixture)


def test_what_is_no_posterior_is_not_registered():
    with pytest.raises(ValueError, match="Expected a name and a class with `parameter_shape`"):
        posteriors.register("number", int)
    assert "number" not in posteriors.names()


def test_arguments_of_a_posterior_are_looked_at_at_once():
    for name, config in (
        ("categorical", {}),
        ("chain", {"num_variables": 0, "num_categories": 2}),
        ("k_subset", {"num_variables": 3, "k": 3}),
        ("pairwise_binary", {"num_variables": 3, "solver": "none"}),
    ):
        with pytest.raises(ValueError, match=r"^Expected "):
            posteriors.get(name, **config)
    three = posteriors.get("chain", num_variables=np.int64(3), num_categories=np.int32(2))
    assert type(three.num_variables) is int
    assert three == posteriors.get("chain", num_variables=3, num_categories=2)
    assert models.StructuredVAE(num_variables=np.int64(4)).num_variables == 4


@pytest.mark.parametrize("name", FAMILIES)
def test_codes_of_any_dtype_have_the_same_score(name):
    family = posteriors.get(name, **FAMILIES[name])
    posterior = family(tf.ones([2, *family.parameter_shape]))
    codes = posterior.sample(3, [1, 2])
    for dtype in (tf.float64, tf.int32):
        np.testing.assert_array_equal(
            posterior.score(tf.cast(codes, dtype)), posterior.score(codes)
        )


@pytest.mark.parametrize("difference", direct.DIFFERENCES)
def test_the_difference_of_scores_in_float64(difference):
    generator, solver = np.random.default_rng(0), solvers.Categorical()
    scores, table = generator.normal(size=[2, 50, 4])
    slopes = []
    for dtype in (tf.float32, tf.float64):
        given = tf.constant(scores, dtype)
        slopes.append(
            direct.epsilon_difference(given, solver(given), table, 0.5, solver, difference)
        )
        assert slopes[-1].dtype == tf.float32
    np.testing.assert_array_equal(*slopes)
    assert np.any(slopes[0])
