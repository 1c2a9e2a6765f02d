import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from estimator_contract import Decoder
from test_gibbs import brute_force, configurations, random_potentials

from tf_direct_opt import direct, schedules
from tf_direct_opt.estimators import StructuredDirect
from tf_direct_opt.perturbation import perturbed_argmax, sample_gumbel
from tf_direct_opt.solvers import Categorical, pairwise_binary

N = 4
DRAWS = 200_000


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
    _, statistics = configurations(N)
    return (p * losses) @ (statistics - means)


def additive_losses():
    bits, _ = configurations(N)
    return bits @ [1.0, -2.0, 0.5, 1.5] + 3.0


@pytest.mark.parametrize("difference", direct.DIFFERENCES)
def test_mean_gradient_at_a_finite_epsilon_is_its_closed_form(difference):
    # With a Gumbel for every configuration the law of one categorical variable of 2^n values
    # holds. 200000 draws, 10 entries within 4 standard errors: fails for 1 seed in 1600.
    h, epsilon = random_potentials(N, 1)[0], 0.5
    estimator = StructuredDirect(
        N, perturbation="configurations", epsilon=epsilon, difference=difference, seed=1
    )
    _, statistics = configurations(N)
    every = oracles.direct_gradient(statistics @ h, additive_losses(), epsilon, difference)
    oracles.assert_mean_is(gradients(estimator, h, additive), every @ statistics)


def test_as_epsilon_vanishes_it_is_the_gradient_of_the_expectation():
    # The bias falls with epsilon until 200000 draws cannot see it; 10 entries, unaries and pairs,
    # within 4 standard errors: fails for 1 seed in 1600.
    h = random_potentials(N, 1)[0]
    expected = slope_of_expectation(h.astype(np.float64), additive_losses())
    biases = []
    for epsilon in (1.0, 0.3, 0.03):
        estimator = StructuredDirect(N, perturbation="configurations", epsilon=epsilon, seed=2)
        samples = gradients(estimator, h, additive)
        biases.append(np.abs(samples.mean(axis=0) - expected).max())
    oracles.assert_mean_is(samples, expected)
    assert biases[0] > 2 * biases[2]


def test_any_loss_with_a_table_of_all_configurations():
    # Theorem 1 for a loss that is not additive: the table of all 2^n losses, pulled back to the
    # potentials. 200000 draws, 10 entries within 4 standard errors: fails for 1 seed in 1600.
    h = random_potentials(N, 1)[0]
    losses = np.random.default_rng(3).normal(size=2**N)
    potentials = tf.broadcast_to(h, [DRAWS, len(h)])
    noise = sample_gumbel([DRAWS, 2**N], [5, 6])
    table = tf.broadcast_to(tf.constant(losses, tf.float32), noise.shape)
    with tf.GradientTape() as tape:
        tape.watch(potentials)
        scores = pairwise_binary.configuration_scores(potentials, N)
        _, code = perturbed_argmax(scores, noise, Categorical())
        loss = tf.reduce_sum(code * table, axis=-1)
        loss = direct.direct_loss(loss, scores, noise, table, 0.03, Categorical())
    expected = slope_of_expectation(h.astype(np.float64), losses)
    oracles.assert_mean_is(tape.gradient(loss, potentials).numpy(), expected)


def test_without_couplings_it_is_the_direct_estimator_of_binary_variables():
    # 4 entries for each of 2 models, 50000 draws, 4 standard errors: fails for 1 seed in 2000.
    h = random_potentials(N, 1)[0]
    decoder = Decoder(N, 2)
    logits = np.stack([np.zeros(N), h[:N]], axis=-1)
    losses = decoder.losses(N, 2)
    expected = oracles.enumerated_direct_gradient(logits, losses, 0.3, "toward_better")[:, 1]
    draws = 50_000
    decoder.offset = tf.broadcast_to(decoder.offset, [draws, 1, 6])
    alone = StructuredDirect(N, couplings=False, epsilon=0.3, seed=1)
    oracles.assert_mean_is(gradients(alone, h[:N], decoder, draws), expected)
    # Couplings that are zero change nothing for the unaries, under noise on the unaries.
    zero = StructuredDirect(N, epsilon=0.3, seed=2)
    padded = np.concatenate([h[:N], np.zeros(6, np.float32)])
    oracles.assert_mean_is(gradients(zero, padded, decoder, draws)[:, :N], expected)


def test_draws_under_noise_of_the_configurations_are_the_gibbs_distribution():
    # 16 probabilities from 50000 draws within 4 standard errors: fails for 1 seed in 1000.
    h = 0.3 * random_potentials(N, 1)[0]
    estimator = StructuredDirect(N, perturbation="configurations", seed=0)
    code = estimator.draw(tf.broadcast_to(h, [50_000, len(h)]), [7, 8]).numpy()
    index = code[..., 1].astype(int) @ (2 ** np.arange(N)[::-1])
    oracles.assert_mean_is(np.eye(2**N)[index], brute_force(h)[1])


@pytest.mark.parametrize("perturbation", ["unary", "all", "configurations"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_every_perturbation_reports_and_gives_finite_gradients(perturbation, jit_compile):
    estimator = StructuredDirect(
        N, perturbation=perturbation, epsilon=schedules.two_phase(1.0, 0.5, 1), seed=0
    )
    potentials = tf.Variable(random_potentials(N, 200))

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


@pytest.mark.parametrize("solver", ["maxflow", "milp"])
def test_other_solvers_find_the_same(solver):
    if solver == "maxflow":
        pytest.importorskip("maxflow")
    h = random_potentials(N)
    h[:, N:] = np.abs(h[:, N:])
    slopes = [
        gradient_of(StructuredDirect(N, solver=name, epsilon=0.5, seed=3), h)
        for name in ("enumerate", solver)
    ]
    np.testing.assert_allclose(*slopes, atol=1e-6)
    assert not StructuredDirect(N, solver=solver).supports_jit


def gradient_of(estimator, h):
    potentials = tf.constant(h)
    with tf.GradientTape() as tape:
        tape.watch(potentials)
        loss = estimator(potentials, loss_fn=additive, training=True)
    return tape.gradient(loss, potentials)


def test_without_training_the_loss_is_that_of_the_best_configuration():
    h = random_potentials(N)
    bits, statistics = configurations(N)
    best = (h @ statistics.T).argmax(axis=1)
    loss = StructuredDirect(N)(tf.constant(h), loss_fn=additive, training=False)
    np.testing.assert_allclose(loss, additive_losses()[best], rtol=1e-6)
    code = StructuredDirect(N).mode(tf.constant(h)).numpy()
    np.testing.assert_array_equal(code[..., 1], bits[best])


def test_config_round_trip():
    estimator = StructuredDirect(
        5, "milp", perturbation="all", epsilon=schedules.two_phase(1.0, 0.1, 9), seed=3
    )
    config = keras.saving.serialize_keras_object(estimator)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == estimator.get_config()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"solver": "simplex"}, "Expected `solver` in"),
        ({"perturbation": "none"}, "Expected `perturbation` in"),
        ({"difference": "left"}, "Expected `difference` in"),
        ({"epsilon": 0.0}, "Expected `epsilon` to be greater than 0"),
        ({"num_variables": 21}, "integer from 1 to 20"),
        ({"solver": "milp", "perturbation": "configurations"}, "Expected solver='enumerate' with"),
        ({"solver": "maxflow", "perturbation": "all"}, "Expected perturbation='unary' with"),
    ],
)
def test_bad_arguments_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        StructuredDirect(**{"num_variables": 3, **config})


def test_potentials_of_another_shape_and_a_missing_loss_are_refused():
    for shape, couplings in (((2, 3), True), ((2, 6), False), ((2, 1, 6), True)):
        with pytest.raises(ValueError, match=r"Expected potentials \[B, "):
            StructuredDirect(3, couplings=couplings)(tf.zeros(shape), loss_fn=additive)
    with pytest.raises(ValueError, match="Expected `loss_fn`"):
        StructuredDirect(3)(tf.zeros([2, 6]))
