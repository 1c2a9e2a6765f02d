import keras
import numpy as np
import oracles
import pytest
import scipy.special
import tensorflow as tf
from estimator_contract import Decoder
from posterior_contract import all_bits
from test_structured_vae import brute_force

from tf_direct_opt import direct, posteriors, schedules, solvers
from tf_direct_opt.estimators import Candidates, Flips

N = 4
DRAWS = 50_000


def family(n=N, couplings=True):
    return posteriors.get("pairwise_binary", num_variables=n, couplings=couplings)


def plain_candidates(**config):
    return Candidates(family(), 16, averaged=False, **config)


def random_potentials(batch=7, seed=0):
    d = N * (N + 1) // 2
    return np.random.default_rng(seed).normal(scale=1.5, size=[batch, d]).astype(np.float32)


def additive(codes):
    """A loss that is additive in the bits, for which single flips say all there is to say."""
    slopes = tf.constant([1.0, -2.0, 0.5, 1.5])
    return tf.reduce_sum(codes[..., 1] * slopes, axis=-1) + 3.0


def gradients(estimator, h, loss_fn, draws=DRAWS):
    potentials = tf.broadcast_to(h, [draws, len(h)])

    @tf.function
    def gradient():
        with tf.GradientTape() as tape:
            tape.watch(potentials)
            loss = estimator(potentials, loss_fn=loss_fn, training=True)
        return tape.gradient(loss, potentials)

    return gradient().numpy()


def slope_of_expectation(h, losses):
    """d/dh E_q f = E_q f (s - E_q s), unaries and pairs, by enumeration."""
    _, p, _, means = brute_force(h)
    _, statistics = all_bits(N)
    return (p * losses) @ (statistics - means)


def additive_losses():
    bits, _ = all_bits(N)
    return bits @ [1.0, -2.0, 0.5, 1.5] + 3.0


class Table:
    """A loss with a value of its own for every configuration, anything but additive."""

    def __init__(self, seed=3):
        self.losses = np.random.default_rng(seed).normal(size=2**N)

    def __call__(self, codes):
        index = tf.tensordot(codes[..., 1], 2.0 ** tf.range(N - 1.0, -1.0, -1.0), 1)
        return tf.gather(tf.constant(self.losses, tf.float32), tf.cast(index, tf.int32))


@pytest.mark.parametrize("difference", direct.DIFFERENCES)
def test_mean_gradient_at_a_finite_epsilon_is_its_closed_form(difference):
    # With a Gumbel for every configuration, all of them candidates, the law of one categorical
    # variable of 2^n values holds, whatever the loss. 50000 draws, 10 entries within 4 standard
    # errors: fails for 1 seed in 1600.
    h, epsilon, table = random_potentials(1)[0], 0.5, Table()
    estimator = plain_candidates(epsilon=epsilon, difference=difference, seed=1)
    _, statistics = all_bits(N)
    every = oracles.direct_gradient(statistics @ h, table.losses, epsilon, difference)
    oracles.assert_mean_is(gradients(estimator, h, table), every @ statistics)


@pytest.mark.parametrize("couplings", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_as_epsilon_vanishes_it_is_the_gradient_of_the_expectation(couplings):
    # Theorem 1 with the fewest candidates there can be, z* and its runner-up, for a loss that is
    # not additive. The bias falls with epsilon until 50000 draws cannot see it; 10 entries,
    # unaries and pairs, or 4 unaries, within 4 standard errors: fails for 1 seed in 1100.
    h, table = random_potentials(1)[0], Table()
    h[N:] *= couplings
    given = h if couplings else h[:N]
    expected = slope_of_expectation(h.astype(np.float64), table.losses)[: len(given)]
    biases = []
    for epsilon in (3.0, 0.03):
        estimator = Candidates(family(N, couplings), 2, epsilon, averaged=False, seed=2)
        samples = gradients(estimator, given, table)
        biases.append(np.abs(samples.mean(axis=0) - expected).max())
    oracles.assert_mean_is(samples, expected)
    assert biases[0] > 2 * biases[1]


PAIRS = "pairwise_binary", {"num_variables": 4}
CHAIN = "chain", {"num_variables": 3, "num_categories": 2}
SUBSET = "k_subset", {"num_variables": 5, "k": 2}


@pytest.mark.parametrize(
    ("name", "config", "decode_all"),
    [
        (*PAIRS, False),
        (*PAIRS, True),
        (*CHAIN, False),
        (*SUBSET, True),
        # What is decoded does not look at the posterior.
        pytest.param(*CHAIN, True, marks=pytest.mark.slow),
        pytest.param(*SUBSET, False, marks=pytest.mark.slow),
    ],
)
def test_averaged_candidates_have_the_gradient_of_the_expectation(name, config, decode_all):
    # 20000 draws; at most 14 entries, and the decoder's 1, within 4 standard errors: fails for 1
    # seed in 1000 each. The reported loss is a draw of f, or its mean given the candidates.
    draws, made = 20_000, posteriors.get(name, **config)
    h = np.random.default_rng(1).normal(size=made.parameter_shape).astype(np.float32)
    weight = np.random.default_rng(2).normal(size=[made.num_variables, made.num_categories])

    def values(codes, scale):
        linear = tf.einsum("bsnk,nk->bs", codes, tf.constant(weight, tf.float32))
        return scale * linear**2

    exact = tf.Variable(h[np.newaxis])
    with tf.GradientTape() as tape:
        posterior = made(exact)
        every = posterior.configurations(tf.range(posterior.num_configurations))[tf.newaxis]
        losses = values(every, 1.0)
        mean = tf.reduce_sum(tf.exp(posterior.log_prob(every)) * losses)
    slope = tape.gradient(mean, exact)
    estimator = Candidates(made, 4, decode_all=decode_all, seed=6)
    scale = tf.ones([draws, 1])

    @tf.function
    def gradient(parameters):
        with tf.GradientTape() as tape:
            tape.watch([parameters, scale])
            loss = estimator(parameters, loss_fn=lambda z: values(z, scale), training=True)
        return loss, *tape.gradient(loss, [parameters, scale])

    loss, drawn, of_decoder = gradient(tf.tile(h[np.newaxis], [draws, 1]))
    oracles.assert_mean_is(drawn, slope[0])
    oracles.assert_mean_is(loss, mean)
    oracles.assert_mean_is(of_decoder[:, 0], mean)
    report = estimator.report.result()
    assert (float(report["epsilon"]), 0 < float(report["first_probability"]) < 1) == (0.0, True)


def test_the_probability_of_the_first_is_that_of_the_code_used():
    # All configurations are candidates: given them, the first has its own probability.
    h = np.random.default_rng(0).normal(size=[50, 1, 3]).astype(np.float32)
    estimator = Candidates(num_candidates=3, seed=0)
    loss = estimator(tf.constant(h), loss_fn=lambda z: z[..., 0, 1] + 2 * z[..., 0, 2],
                     training=True)  # fmt: skip
    used = loss.numpy().astype(int)
    assert set(used) == {0, 1, 2}
    expected = np.take_along_axis(scipy.special.softmax(h[:, 0], axis=1), used[:, None], 1).mean()
    found = float(estimator.report.result()["first_probability"])
    assert found == pytest.approx(expected, rel=1e-5)


def test_without_couplings_it_is_the_direct_estimator_of_binary_variables():
    # 4 entries for each of 2 models, 50000 draws, 4 standard errors: fails for 1 seed in 2000.
    h = random_potentials(1)[0]
    decoder = Decoder(N, 2)
    logits = np.stack([np.zeros(N), h[:N]], axis=-1)
    losses = decoder.losses(N, 2)
    expected = oracles.enumerated_direct_gradient(logits, losses, 0.3, "toward_better")[:, 1]
    draws = 50_000
    decoder.offset = tf.broadcast_to(decoder.offset, [draws, 1, 6])
    alone = Flips(N, couplings=False, epsilon=0.3, seed=1)
    oracles.assert_mean_is(gradients(alone, h[:N], decoder, draws), expected)
    # Couplings that are zero change nothing for the unaries, under noise on the unaries.
    zero = Flips(N, epsilon=0.3, seed=2)
    padded = np.concatenate([h[:N], np.zeros(6, np.float32)])
    oracles.assert_mean_is(gradients(zero, padded, decoder, draws)[:, :N], expected)


def test_draws_under_noise_of_the_configurations_are_the_gibbs_distribution():
    # 16 probabilities from 50000 draws within 4 standard errors: fails for 1 seed in 1000.
    h = 0.3 * random_potentials(1)[0]
    posterior = family()(tf.broadcast_to(h, [50_000, len(h)]))
    code = Candidates(family(), seed=0).draw(posterior, [7, 8]).numpy()
    index = code[..., 1].astype(int) @ (2 ** np.arange(N)[::-1])
    oracles.assert_mean_is(np.eye(2**N)[index], brute_force(h)[1])


def make(perturbation, **config):
    if perturbation == "configurations":
        return plain_candidates(**config)
    return Flips(N, perturbation=perturbation, **config)


@pytest.mark.parametrize(
    ("perturbation", "jit_compile"),
    [
        ("all", False),
        ("configurations", True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("unary", False),
                ("unary", True),
                ("all", True),
                ("configurations", False),
            )
        ),
    ],
)
def test_every_perturbation_reports_and_gives_finite_gradients(perturbation, jit_compile):
    estimator = make(perturbation, epsilon=schedules.two_phase(1.0, 0.5, 1), seed=0)
    potentials = tf.Variable(random_potentials(200))

    @tf.function(jit_compile=jit_compile)
    def step():
        with tf.GradientTape() as tape:
            loss = estimator(potentials, loss_fn=additive, training=True)
        return loss, tape.gradient(loss, potentials)

    (first, slope), (second, _) = step(), step()
    assert first.shape == (200,)
    assert np.any(slope[:, :N] != 0)
    assert np.any(slope[:, N:] != 0)
    assert np.any(first != second)
    report = estimator.report.result()
    assert float(report["epsilon"]) == pytest.approx(0.75)
    assert 0 < float(report["flip_rate"]) <= 1


def test_potentials_that_are_not_finite_are_refused_or_become_nan():
    h = random_potentials()
    h[1, 5] = np.inf
    for perturbation in ("unary", "configurations"):
        estimator = make(perturbation, epsilon=0.5, seed=0)
        with pytest.raises(tf.errors.InvalidArgumentError, match="Expected finite"):
            estimator(h, loss_fn=additive, training=True)
    # XLA drops assertions.
    call = tf.function(lambda h: estimator(h, loss_fn=additive, training=True), jit_compile=True)
    loss = call(h).numpy()
    np.testing.assert_array_equal(np.isnan(loss), np.arange(len(h)) == 1)


@pytest.mark.parametrize("solver", ["pairwise_binary_max_flow", "pairwise_binary_milp"])
def test_other_solvers_find_the_same(solver):
    if solver == "pairwise_binary_max_flow":
        pytest.importorskip("maxflow")
    h = random_potentials()
    h[:, N:] = np.abs(h[:, N:])
    slopes = [
        gradient_of(Flips(N, name, epsilon=0.5, seed=3), h) for name in ("pairwise_binary", solver)
    ]
    np.testing.assert_allclose(*slopes, atol=1e-6)
    assert not Flips(N, solver).supports_jit


def gradient_of(estimator, h):
    potentials = tf.constant(h)
    with tf.GradientTape() as tape:
        tape.watch(potentials)
        loss = estimator(potentials, loss_fn=additive, training=True)
    return tape.gradient(loss, potentials)


def test_without_training_the_loss_is_that_of_the_best_configuration():
    h = random_potentials()
    _, statistics = all_bits(N)
    best = (h @ statistics.T).argmax(axis=1)
    for estimator in (Flips(N), Candidates(family())):
        loss = estimator(tf.constant(h), loss_fn=additive, training=False)
        np.testing.assert_allclose(loss, additive_losses()[best], rtol=1e-6)


def test_a_posterior_that_is_given_is_asked():
    h = tf.constant(random_potentials())
    estimators = [Candidates(family(), epsilon=0.5, seed=4) for _ in range(2)]
    losses = [
        estimators[0](h, loss_fn=additive, training=True),
        estimators[1](h, loss_fn=additive, training=True, posterior=family()(h)),
    ]
    np.testing.assert_array_equal(*losses)


@pytest.mark.parametrize(
    "estimator",
    [
        Flips(5, "pairwise_binary_milp", perturbation="all", epsilon=0.3, seed=3),
        Flips(5, solvers.PairwiseBinaryMILP(5, ties="any"), difference="central"),
        Flips(5, couplings=False),
        Candidates(family(), 7, schedules.two_phase(1.0, 0.1, 9), seed=3),
        Candidates(),
        Candidates(family(), epsilon=0.3, decode_all=True),
        plain_candidates(),
    ],
)
def test_config_round_trip(estimator):
    config = keras.saving.serialize_keras_object(estimator)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == estimator.get_config()
    assert again.posterior == estimator.posterior or isinstance(estimator, Flips)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"solver": "simplex"}, "Expected `solver` to be one of"),
        ({"perturbation": "none"}, "Expected `perturbation` in"),
        ({"difference": "left"}, "Expected `difference` in"),
        ({"epsilon": 0.0}, "Expected `epsilon` to be greater than 0"),
        ({"num_variables": 21}, "integer from 1 to 20"),
        ({"solver": "pairwise_binary_max_flow", "perturbation": "all"}, "Expected perturbation='u"),
    ],
)
def test_bad_arguments_of_flips_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        Flips(**{"num_variables": 3, **config})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"posterior": "gibbs"}, "Expected `posterior` to be one of"),
        ({"posterior": family(21)}, "integer from 1 to 20"),
        ({"num_candidates": 1}, "Expected `num_candidates` to be an integer of at least 2"),
        ({"epsilon": -1.0}, "Expected `epsilon` to be greater than 0"),
        ({"difference": "left"}, "Expected `difference` in"),
        ({"averaged": False, "decode_all": True}, "Expected averaged=True with decode_all=True"),
    ],
)
def test_bad_arguments_of_candidates_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        Candidates(**config)(tf.zeros([2, 231]), loss_fn=additive, training=True)


def test_potentials_of_another_shape_and_a_missing_loss_are_refused():
    for shape, couplings in (((2, 3), True), ((2, 6), False), ((2, 1, 6), True)):
        for estimator in (Flips(3, couplings=couplings), Candidates(family(3, couplings))):
            with pytest.raises(ValueError, match=r"Expected parameters \[B, "):
                estimator(tf.zeros(shape), loss_fn=additive)
    with pytest.raises(ValueError, match="Expected `loss_fn`"):
        Flips(3)(tf.zeros([2, 6]))
