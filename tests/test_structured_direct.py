import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from estimator_contract import Decoder
from test_gibbs import brute_force, configurations, random_potentials

from tf_direct_opt import direct, schedules
from tf_direct_opt.estimators import StructuredDirect

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
    # variable of 2^n values holds, whatever the loss. 200000 draws, 10 entries within 4 standard
    # errors: fails for 1 seed in 1600.
    h, epsilon, table = random_potentials(N, 1)[0], 0.5, Table()
    estimator = StructuredDirect(
        N, perturbation="configurations", epsilon=epsilon, difference=difference, seed=1
    )
    _, statistics = configurations(N)
    every = oracles.direct_gradient(statistics @ h, table.losses, epsilon, difference)
    oracles.assert_mean_is(gradients(estimator, h, table), every @ statistics)


@pytest.mark.parametrize("couplings", [True, False])
def test_as_epsilon_vanishes_it_is_the_gradient_of_the_expectation(couplings):
    # Theorem 1 with the fewest candidates there can be, z* and its runner-up, for a loss that is
    # not additive. The bias falls with epsilon until 200000 draws cannot see it; 10 entries,
    # unaries and pairs, or 4 unaries, within 4 standard errors: fails for 1 seed in 1100.
    h, table = random_potentials(N, 1)[0], Table()
    h[N:] *= couplings
    given = h if couplings else h[:N]
    expected = slope_of_expectation(h.astype(np.float64), table.losses)[: len(given)]
    biases = []
    for epsilon in (3.0, 1.0, 0.03):
        estimator = StructuredDirect(
            N,
            couplings=couplings,
            perturbation="configurations",
            num_candidates=2,
            epsilon=epsilon,
            seed=2,
        )
        samples = gradients(estimator, given, table)
        biases.append(np.abs(samples.mean(axis=0) - expected).max())
    oracles.assert_mean_is(samples, expected)
    assert biases[0] > 2 * biases[2]


def test_without_couplings_it_is_the_direct_estimator_of_binary_variables():
    # 4 entries for each of 2 models, 50000 draws, 4 standard errors: fails for 1 seed in 2000.
    h = random_potentials(N, 1)[0]
    decoder = Decoder(N, 2)
    logits = np.stack([np.zeros(N), h[:N]], axis=-1)
    losses = decoder.losses(N, 2)
    expected = oracles.enumerated_direct_gradient(logits, losses, 0.3, "toward_better")[:, 1]
    draws = 50_000
    decoder.offset = tf.broadcast_to(decoder.offset, [draws, 1, 6])
    alone = StructuredDirect(N, couplings=False, perturbation="unary", epsilon=0.3, seed=1)
    oracles.assert_mean_is(gradients(alone, h[:N], decoder, draws), expected)
    # Couplings that are zero change nothing for the unaries, under noise on the unaries.
    zero = StructuredDirect(N, perturbation="unary", epsilon=0.3, seed=2)
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


def test_potentials_that_are_not_finite_are_refused_or_become_nan():
    h = random_potentials(N)
    h[1, 5] = np.inf
    for perturbation in ("unary", "configurations"):
        estimator = StructuredDirect(N, perturbation=perturbation, epsilon=0.5, seed=0)
        call = tf.function(
            lambda h, estimator=estimator: estimator(h, loss_fn=additive, training=True)
        )
        with pytest.raises(tf.errors.InvalidArgumentError, match="Expected finite"):
            call(h)
        # XLA drops assertions.
        loss = tf.function(call.python_function, jit_compile=True)(h).numpy()
        np.testing.assert_array_equal(np.isnan(loss), np.arange(len(h)) == 1)


@pytest.mark.parametrize("solver", ["maxflow", "milp"])
def test_other_solvers_find_the_same(solver):
    if solver == "maxflow":
        pytest.importorskip("maxflow")
    h = random_potentials(N)
    h[:, N:] = np.abs(h[:, N:])
    slopes = [
        gradient_of(StructuredDirect(N, solver=name, perturbation="unary", epsilon=0.5, seed=3), h)
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


def test_the_noise_is_on_configurations_where_the_solver_enumerates_them():
    chosen = {
        (20, "enumerate", True): "configurations",
        (20, "milp", True): "unary",
        (21, "enumerate", False): "unary",
    }
    for (n, solver, couplings), perturbation in chosen.items():
        assert StructuredDirect(n, solver, couplings).perturbation == perturbation


def test_config_round_trip():
    estimator = StructuredDirect(
        5,
        "milp",
        perturbation="all",
        num_candidates=16,
        epsilon=schedules.two_phase(1.0, 0.1, 9),
        seed=3,
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
        ({"perturbation": "configurations", "num_candidates": 1}, "an integer of 2 or more"),
        (
            {"num_variables": 21, "couplings": False, "perturbation": "configurations"},
            "integer from 1 to 20",
        ),
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
