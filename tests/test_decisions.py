"""Losses and metric of decisions against their formulas, written out in NumPy."""

import itertools

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from replicas import two_replicas

from tf_direct_opt import decisions, solvers
from tf_direct_opt.layers import PerturbedArgmax

PATHS = solvers.DagPath(solvers.grid_edges(3, 3))
NUM_EDGES = 12


def problem(batch=6, seed=0):
    generator = np.random.default_rng(seed)
    predicted, costs = generator.uniform(0.5, 2.0, [2, batch, NUM_EDGES]).astype(np.float32)
    return predicted, costs


def all_paths():
    """The six paths through the grid, [6, 12], by enumeration of all subsets of four edges."""
    edges = solvers.grid_edges(3, 3)
    codes = []
    for chosen in itertools.combinations(range(NUM_EDGES), 4):
        nodes = [0]
        for edge in chosen:
            if edges[edge][0] == nodes[-1]:
                nodes.append(edges[edge][1])
        if nodes[-1] == 8 and len(nodes) == 5:
            codes.append(np.isin(np.arange(NUM_EDGES), chosen))
    return np.array(codes, np.float32)


def best(costs):
    codes = all_paths()
    return codes[(costs @ codes.T).argmin(axis=-1)]


def value_and_gradient(loss, targets, predicted):
    predicted = tf.constant(predicted)
    with tf.GradientTape() as tape:
        tape.watch(predicted)
        value = loss(targets, predicted)
    return value.numpy(), tape.gradient(value, predicted).numpy()


def test_targets_are_costs_and_best_decisions():
    _, costs = problem()
    assert len(all_paths()) == 6
    targets = decisions.targets(costs, PATHS, batch_size=4)
    np.testing.assert_array_equal(targets[:, 0], costs)
    np.testing.assert_array_equal(targets[:, 1], best(costs))
    values = decisions.targets(-costs, PATHS, minimize=False)
    np.testing.assert_array_equal(values[:, 1], best(costs))
    by_name = decisions.targets(costs, "categorical")
    np.testing.assert_array_equal(by_name[:, 1], np.eye(NUM_EDGES)[costs.argmin(axis=1)])


@pytest.mark.parametrize("minimize", [True, False])
def test_spo_plus_is_its_formula_and_bounds_the_regret(minimize):
    predicted, costs = problem()
    sign = 1 if minimize else -1
    targets = decisions.targets(sign * costs, PATHS, minimize)
    loss = decisions.SPOPlus(PATHS, minimize, reduction="none")
    value, gradient = value_and_gradient(loss, targets, sign * predicted)
    optimum, other = best(costs), best(2 * predicted - costs)
    expected = ((costs - 2 * predicted) * other + (2 * predicted - costs) * optimum).sum(axis=1)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(gradient, sign * 2 * (optimum - other))
    assert np.any(gradient)
    regret = (costs * (best(predicted) - optimum)).sum(axis=1)
    assert np.all(value >= regret - 1e-5)
    # Without targets of both kinds the best decision is found on the way.
    np.testing.assert_allclose(loss(sign * costs, sign * predicted), value)


@pytest.mark.parametrize("minimize", [True, False])
def test_fenchel_young_of_two_categories_is_the_logistic_loss(minimize):
    # E max(h + gamma) is logsumexp, so the loss is the cross-entropy and its gradient softmax - z.
    # 65536 draws of a deviation below 1.3; the sum of two gradients is checked by the softmax.
    h = np.array([[0.3, -0.9]], np.float32)
    loss = decisions.PerturbedFenchelYoung(
        "categorical", num_samples=2**16, minimize=minimize, seed=0
    )
    sign = -1 if minimize else 1
    targets = decisions.targets(sign * np.array([[0.0, 1.0]]), solvers.Categorical(), minimize)
    value, gradient = value_and_gradient(loss, targets, sign * h)
    p = oracles.softmax(h)
    assert value == pytest.approx(-np.log(p[0, 1]), abs=4 * 1.3 / 256)
    np.testing.assert_allclose(gradient, sign * (p - [[0.0, 1.0]]), atol=4 * 0.5 / 256)


def test_fenchel_young_without_noise_is_the_structured_perceptron():
    predicted, costs = problem()
    loss = decisions.PerturbedFenchelYoung(PATHS, noise=None, reduction="none")
    targets = decisions.targets(costs, PATHS)
    value, gradient = value_and_gradient(loss, targets, predicted)
    np.testing.assert_array_equal(gradient, best(costs) - best(predicted))
    expected = (predicted * (best(costs) - best(predicted))).sum(axis=1)
    np.testing.assert_allclose(value, expected, atol=1e-5)
    assert np.all(value >= -1e-6)


@pytest.mark.parametrize("minimize", [True, False])
def test_decision_loss_behind_the_layer_compares_decisions_under_true_costs(minimize):
    predicted, costs = problem()
    sign, epsilon = 1 if minimize else -1, 0.6
    layer = PerturbedArgmax(
        epsilon, PATHS, noise=None, difference="central", minimize=minimize, loss_scale=1 / 6
    )
    inputs = tf.constant(sign * predicted)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = decisions.DecisionLoss(minimize)(sign * costs, layer(inputs, training=True))
    assert float(loss) == pytest.approx((costs * best(predicted)).sum(axis=1).mean(), rel=1e-5)
    better, worse = best(predicted + epsilon * costs), best(predicted - epsilon * costs)
    expected = sign * (better - worse) / (2 * epsilon) / 6
    np.testing.assert_allclose(tape.gradient(loss, inputs), expected, rtol=1e-5)
    assert np.any(expected)


def test_the_direct_gradient_is_that_of_the_expected_cost():
    # Gumbel noise on the edges of a graph of two parallel edges: a softmax of them. 2^17 draws of
    # a deviation below 1 / epsilon; the bias of the central difference is below 0.005.
    predicted, costs = np.array([0.3, -0.2], np.float32), np.array([1.0, 2.0], np.float32)
    layer = PerturbedArgmax(
        0.3, solvers.DagPath([(0, 1), (0, 1)]), difference="central", minimize=True, seed=0
    )
    inputs, draws = tf.Variable(predicted), 2**17
    with tf.GradientTape() as tape:
        decision = layer(tf.broadcast_to(inputs, [draws, 2]), training=True)
        loss = decisions.DecisionLoss()(tf.broadcast_to(costs, [draws, 2]), decision)
        loss += sum(layer.losses)
    expected = -oracles.true_gradient(-predicted.astype(np.float64), costs)
    assert np.abs(expected).max() > 0.2
    error = 4 / 0.3 / np.sqrt(draws) + 0.005
    np.testing.assert_allclose(tape.gradient(loss, inputs), expected, atol=error)


def test_regret_is_that_of_all_examples_whatever_the_batches():
    predicted, costs = problem(batch=10)
    targets = decisions.targets(costs, PATHS)
    optimum = (costs * best(costs)).sum(axis=1)
    excess = (costs * best(predicted)).sum(axis=1) - optimum
    for metric, inputs in (
        (decisions.Regret(PATHS), predicted),
        (decisions.Regret(), best(predicted)),
    ):
        for part in (slice(7), slice(7, 10)):
            metric.update_state(targets[part], inputs[part])
        assert float(metric.result()) == pytest.approx(excess.sum() / optimum.sum(), rel=1e-5)
        assert float(metric.result()) > 0.01
    weight = np.arange(10.0)
    metric = decisions.Regret(solvers.DagPath(solvers.grid_edges(3, 3)), minimize=False)
    metric.update_state(decisions.targets(-costs, PATHS, False), -predicted, weight)
    expected = (weight * excess).sum() / (weight * optimum).sum()
    assert float(metric.result()) == pytest.approx(expected, rel=1e-5)


def test_regret_of_two_replicas_is_that_of_one():
    predicted, costs = problem(batch=8)
    targets = decisions.targets(costs, PATHS)
    strategy = two_replicas()
    results = []
    for scope in (tf.distribute.get_strategy(), strategy):
        with scope.scope():
            model = keras.Sequential([keras.Input((NUM_EDGES,)), keras.layers.Identity()])
            model.compile(loss=decisions.SPOPlus(PATHS), metrics=[decisions.Regret(PATHS)])
        results.append(model.evaluate(predicted, targets, batch_size=6, verbose=0))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5)


def model_and_loss(kind):
    features = keras.Input((4,))
    costs = keras.layers.Dense(NUM_EDGES, name="costs")(features)
    if kind == "direct":
        layer = PerturbedArgmax(
            1.0, PATHS, 0, "central", "relative", noise_scale=0.3, minimize=True
        )
        return keras.Model(features, layer(costs)), decisions.DecisionLoss(), decisions.Regret()
    loss = {
        "spo_plus": decisions.SPOPlus(PATHS),
        "fenchel_young": decisions.PerturbedFenchelYoung(PATHS, "normal", 0.5, 2, seed=0),
    }[kind]
    return keras.Model(features, costs), loss, decisions.Regret(PATHS)


@pytest.mark.parametrize(
    ("kind", "policy", "jit_compile"),
    [
        ("direct", "mixed_float16", False),
        # The program of decisions trains with these in the fast tests.
        pytest.param("spo_plus", "float32", False, marks=pytest.mark.slow),
        pytest.param("direct", "float32", False, marks=pytest.mark.slow),
        pytest.param("direct", "float32", True, marks=pytest.mark.slow),
        pytest.param("fenchel_young", "float32", False, marks=pytest.mark.slow),
    ],
)
def test_a_functional_model_learns_saves_and_loads(tmp_path, kind, policy, jit_compile):
    keras.config.set_dtype_policy(policy)
    generator = np.random.default_rng(0)
    features = generator.normal(size=[128, 4]).astype(np.float32)
    costs = 3.0 + features @ generator.normal(size=[4, NUM_EDGES])
    targets = decisions.targets(costs, PATHS)
    model, loss, regret = model_and_loss(kind)
    model.compile(keras.optimizers.Adam(0.05), loss, metrics=[regret], jit_compile=jit_compile)
    _, before = model.evaluate(features, targets, verbose=0)
    model.fit(features, targets, batch_size=16, epochs=12, verbose=0)
    _, after = model.evaluate(features, targets, verbose=0)
    assert after < 0.35 * before
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again.loss) is type(loss)
    assert again.loss.get_config() == loss.get_config()
    np.testing.assert_allclose(again.evaluate(features, targets, verbose=0)[1], after, rtol=1e-5)


def test_targets_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"Expected y_true of shape \[batch, 2, \*\(12,\)\]"):
        decisions.SPOPlus(PATHS)(np.zeros([3, 5]), np.zeros([3, NUM_EDGES]))
    with pytest.raises(ValueError, match=r"Expected y_true .*decisions.targets.*give `solver`"):
        decisions.Regret().update_state(np.zeros([3, 12]), np.zeros([3, 12]))


@pytest.mark.parametrize(
    "loss", [decisions.DecisionLoss(), decisions.SPOPlus, decisions.PerturbedFenchelYoung]
)
def test_a_mask_of_time_steps_is_refused(loss):
    # As many examples as time steps: Keras would broadcast the losses to [batch, steps].
    solver = solvers.Categorical()
    inputs = keras.Input((4, 3))
    outputs = keras.layers.Dense(3)(keras.layers.Masking()(inputs))
    if isinstance(loss, decisions.DecisionLoss):
        outputs = PerturbedArgmax(solver=solver, minimize=True)(outputs)
    else:
        loss = loss(solver)
    model = keras.Model(inputs, outputs)
    features = np.ones([4, 4, 3], np.float32)
    targets = decisions.targets(features, solver)
    message = r"without a mask of time steps.* received one of shape \(.*4\). Please leave out"
    for arguments in ({"loss": loss}, {"metrics": [decisions.Regret(solver)]}):
        model.compile("sgd", **arguments)
        with pytest.raises(ValueError, match=message):
            model.evaluate(features, targets, verbose=0)


def test_a_mask_of_examples_weighs_them():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Identity()(keras.layers.Masking()(inputs)))
    model.compile(loss=decisions.DecisionLoss(reduction="sum"))
    decision = np.array([[1, 0, 0], [0, 0, 0], [0, 1, 0]], np.float32)
    costs = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.float32)
    assert model.evaluate(decision, costs, verbose=0) == pytest.approx(1 + 8)
    # The second example, without a decision, is masked: excess and optimum are of the others.
    model.compile(metrics=[decisions.Regret()], loss=decisions.DecisionLoss())
    targets = decisions.targets(costs, "categorical")
    figures = model.evaluate(decision, targets, verbose=0, return_dict=True)
    assert figures["regret"] == pytest.approx((0 + 1) / (1 + 7))
