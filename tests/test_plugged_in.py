"""What a user plugs in and does not fit: refused by name, or right; found by a second reader."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from test_discrete_vae import stripes

from tf_direct_opt import codebook, decisions, estimators, layers, runs, schedules, solvers
from tf_direct_opt.models import DiscreteVAE, MixtureVAE, PosteriorVAE, StructuredVAE
from tf_direct_opt.posteriors import Categorical, get

TFD = tfp.distributions
TABLE = tf.constant([[3.0, 1.0, 2.0]])
CHAIN = get("chain", num_variables=3, num_categories=2)


def compiled(model, **options):
    model.compile(keras.optimizers.SGD(0.0), **options)
    model.build((None, 6, 6))
    return model


# Images and weights.


def test_images_of_another_size_are_not_cut_into_other_images():
    encoder = keras.Sequential([keras.layers.Conv2D(4, 2, 2)])
    decoder = keras.Sequential(
        [keras.layers.Reshape((2, 2, 4)), keras.layers.Conv2DTranspose(1, 2, 2)]
    )
    model = DiscreteVAE(4, 4, "reinmax", encoder=encoder, decoder=decoder, num_eval_samples=2)
    model.compile("sgd", run_eagerly=True)
    model.build((None, 4, 4, 1))
    images = np.ones([3, 8, 8, 1], np.float32)
    for call in (model.train_on_batch, model.test_on_batch, model.encode):
        with pytest.raises(ValueError, match=r"images of the size \(4, 4, 1\).*received \(8, 8, 1"):
            call(images)
    unknown = tf.function(model.encode, input_signature=[tf.TensorSpec([None] * 3 + [1])])
    with pytest.raises(tf.errors.InvalidArgumentError):  # A reshape of the batch does not fit.
        unknown(images)


@pytest.mark.parametrize("call", ["fit", "evaluate"])
def test_weights_that_keras_would_drop_are_refused(call):
    model = compiled(DiscreteVAE(1, 3, hidden_units=4, seed=0), run_eagerly=True)
    with pytest.raises(ValueError, match="Expected `y` beside `sample_weight`"):
        getattr(model, call)(stripes(4), sample_weight=np.zeros(4))


def test_weights_weigh_every_figure_that_is_a_mean_over_examples():
    model = compiled(DiscreteVAE(1, 3, hidden_units=4, seed=0), run_eagerly=True)
    images, weight = stripes(4), np.array([0.0, 0.0, 1.0, 3.0])
    one_by_one = [model.evaluate(images[i : i + 1], verbose=0, return_dict=True) for i in range(4)]
    got = model.evaluate(images, np.zeros(4), sample_weight=weight, verbose=0, return_dict=True)
    for name in set(got) - {"code_perplexity"}:
        each = [figures[name] for figures in one_by_one]
        assert got[name] == pytest.approx(np.mean(weight * each), rel=1e-5), name
    assert got["loss"] == pytest.approx(got["reconstruction"] + got["kl"], rel=1e-5)


def test_targets_of_an_autoencoder_are_its_images():
    model = compiled(DiscreteVAE(1, 3, hidden_units=4), run_eagerly=True)
    with pytest.raises(ValueError, match="Expected images alone, which are their own targets"):
        model.fit(stripes(4), 1.0 - stripes(4), verbose=0)


# Likelihoods.


@pytest.mark.parametrize(
    "likelihood",
    [
        pytest.param("bernoulli", marks=pytest.mark.slow),  # test_model_trust has a fast one.
        "categorical",
        pytest.param("discretised_logistic", marks=pytest.mark.slow),
    ],
)
def test_under_xla_images_out_of_range_make_the_loss_nan(likelihood):
    model = compiled(
        DiscreteVAE(1, 3, likelihood=likelihood, hidden_units=4, seed=0), jit_compile=True
    )
    images = np.random.default_rng(0).integers(0, 256, [4, 6, 6]) / np.float32(255)
    assert np.isfinite(model.train_on_batch(images, return_dict=True)["loss"])
    model.reset_metrics()
    assert np.isnan(model.train_on_batch(255 * images, return_dict=True)["loss"])


@pytest.mark.parametrize("likelihood", ["categorical", "discretised_logistic"])
def test_in_half_precision_the_levels_of_bytes_are_what_they_are(likelihood):
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = compiled(
        DiscreteVAE(1, 3, likelihood=likelihood, hidden_units=4, seed=0), run_eagerly=True
    )
    images = np.random.default_rng(0).integers(0, 256, [4, 6, 6]) / np.float32(255)
    assert np.isfinite(model.evaluate(images, verbose=0)[0])
    assert np.isfinite(model.predict(images, verbose=0)["reconstruction"]).all()


@pytest.mark.parametrize(
    "likelihood",
    [
        lambda outputs: TFD.Bernoulli(logits=outputs[..., 0]),
        lambda outputs: TFD.Categorical(logits=tf.repeat(outputs, 5, -1)),
    ],
)
def test_a_distribution_of_ones_own_has_a_support(likelihood):
    model = compiled(DiscreteVAE(1, 3, likelihood=likelihood, hidden_units=4), run_eagerly=True)
    with pytest.raises(tf.errors.InvalidArgumentError):
        model.train_on_batch(255.5 * stripes(4))


# Solvers.


def test_a_name_that_is_taken_is_refused():
    def first(scores):
        return np.arange(len(scores)) == scores.argmax()

    def second(scores):
        return np.arange(len(scores)) == scores.argmin()

    solvers.register("plugged_in/best")(first)
    solvers.register("plugged_in/best")(first)  # A cell that is run again.
    with pytest.raises(ValueError, match=r"not taken; received 'plugged_in/best', under which .*f"):
        solvers.register("plugged_in/best")(second)
    with pytest.raises(ValueError, match="Expected a `name` of your own"):
        solvers.register("categorical")(second)
    assert solvers.get("plugged_in/best")(TABLE).numpy().tolist() == [[1.0, 0.0, 0.0]]


def test_where_a_decision_counts_an_approximate_solver_is_exact():
    costs = np.random.default_rng(0).uniform(1, 2, [50, 6]).astype(np.float32)
    two = {"upper": 2.0, "lower": 2.0, "ties": "any"}
    some = solvers.MILP([[1.0] * 6], solve_ratio=0.05, **two)
    least = np.argsort(costs, axis=1)[:, :2]
    expected = np.zeros_like(costs)
    np.put_along_axis(expected, least, 1.0, axis=1)
    targets = decisions.targets(costs, some)
    np.testing.assert_array_equal(targets[:, 1], expected)
    layer = layers.PerturbedArgmax(solver=some, minimize=True)
    np.testing.assert_array_equal(layer(costs), expected)
    regret = decisions.Regret(some)
    regret.update_state(targets, costs)
    assert float(regret.result()) == 0.0
    assert np.any(some(-tf.constant(costs)).numpy() != expected)  # In training it is not.


def test_a_solver_that_returns_nothing_is_named():
    with pytest.raises(ValueError, match="Expected the solver 'forgets' to return a code"):
        layers.PerturbedArgmax(1.0, solver=_forgets)(tf.zeros([2, 3]))


def _forgets(scores):
    tf.one_hot(tf.argmax(scores, axis=-1), 3)


_forgets.__name__ = "forgets"


# Decisions.


def test_regret_of_one_weight_for_all():
    targets, decided = [[[3.0, 2.0], [0.0, 1.0]]], [[1.0, 0.0]]
    metric = decisions.Regret()
    metric.update_state(targets, decided, sample_weight=2.0)
    assert float(metric.result()) == 0.5


@pytest.mark.parametrize(
    ("make", "y_true", "y_pred", "message"),
    [
        # Made for least costs, judged by highest values.
        (
            lambda: decisions.Regret(solvers.Categorical(), minimize=False),
            decisions.targets(TABLE, solvers.Categorical()), [[3.0, 1.0, 2.0]],
            "no decision that is better than the best",
        ),
        # Decisions before costs.
        (
            decisions.Regret, [[[1.0, 0.0, 0.0], [3.0, 1.0, 2.0]]], [[0.0, 1.0, 0.0]],
            "costs and then 0/1 decisions",
        ),
        # Costs where there is no solver.
        (
            decisions.Regret, [[[1.0, 5.0], [1.0, 0.0]]], [[3.0, 7.0]],
            "give what takes predicted costs its `solver`",
        ),
        # A solver of decisions.
        (
            lambda: decisions.Regret(solvers.Categorical()),
            [[[1.0, 5.0], [1.0, 0.0]]], [[1.0, 0.0]], "Leave out the `solver`",
        ),
    ],
    ids=["minimize", "layout", "costs", "decisions"],
)  # fmt: skip
def test_regret_refuses_what_does_not_belong(make, y_true, y_pred, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        make().update_state(y_true, y_pred)
    metric = make()
    tf.function(metric.update_state, jit_compile=True)(tf.constant(y_true), tf.constant(y_pred))
    assert np.isnan(metric.result())


@pytest.mark.parametrize(
    ("loss", "y_pred", "message"),
    [
        (decisions.DecisionLoss(), [[0.0, -7.0]], "End the model with a PerturbedArgmax"),
        (decisions.SPOPlus("categorical"), [[1.0, 0.0]], "Leave out the `solver`"),
        (decisions.PerturbedFenchelYoung("categorical"), [[1.0, 0.0]], "Leave out the `solver`"),
    ],
    ids=["DecisionLoss", "SPOPlus", "PerturbedFenchelYoung"],
)
def test_a_loss_of_decisions_refuses_what_does_not_belong(loss, y_pred, message):
    targets = tf.constant([[[1.0, 5.0], [1.0, 0.0]]])
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        loss(targets, tf.constant(y_pred))
    assert np.isnan(tf.function(loss, jit_compile=True)(targets, tf.constant(y_pred)))
    # A network that has learnt nothing may predict zeros.
    assert np.isfinite(loss(targets, tf.zeros([1, 2])))


@pytest.mark.parametrize(
    "loss",
    [
        decisions.DecisionLoss(),
        decisions.SPOPlus("categorical"),
        decisions.PerturbedFenchelYoung("categorical"),
    ],
    ids=["DecisionLoss", "SPOPlus", "PerturbedFenchelYoung"],
)
def test_targets_whose_decision_is_none(loss):
    targets, y_pred = tf.constant([[[1.0, 5.0], [0.5, 0.5]]]), tf.zeros([1, 2])
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected"):
        loss(targets, y_pred)
    assert np.isnan(tf.function(loss, jit_compile=True)(targets, y_pred))


@pytest.mark.parametrize("loss", [decisions.SPOPlus, decisions.PerturbedFenchelYoung])
def test_losses_refuse_targets_of_the_other_sign(loss):
    targets = decisions.targets(TABLE, solvers.Categorical())  # The least is 1.
    with pytest.raises(tf.errors.InvalidArgumentError, match="better than the best of y_true"):
        loss("categorical", minimize=False)(targets, 9.0 * TABLE)
    assert np.isfinite(loss("categorical")(targets, 9.0 * TABLE))


def test_regret_where_the_best_costs_nothing():
    regret = decisions.Regret()
    regret.update_state([[[0.0, 5.0], [1.0, 0.0]]], [[1.0, 0.0]])
    assert float(regret.result()) == 0.0
    regret.update_state([[[0.0, 5.0], [1.0, 0.0]]], [[0.0, 1.0]])
    assert float(regret.result()) == np.inf


def test_predictions_that_are_not_finite_have_no_finite_regret():
    targets = decisions.targets(TABLE, solvers.Categorical())
    own = lambda scores: tf.one_hot(tf.argmax(scores, -1), 3)  # noqa: E731
    bad = tf.fill([1, 3], np.nan)
    for solver in (solvers.Categorical(), own):
        regret = decisions.Regret(solver)
        with pytest.raises(tf.errors.InvalidArgumentError, match="Expected finite"):
            regret.update_state(targets, bad)
        tf.function(regret.update_state, jit_compile=True)(targets, bad)
        assert np.isnan(regret.result())
        with pytest.raises(tf.errors.InvalidArgumentError, match="Expected finite"):
            decisions.targets(bad, solver)


def test_targets_of_nothing_are_none():
    assert decisions.targets(np.zeros([0, 3]), solvers.Categorical()).shape == (0, 2, 3)
    with pytest.raises(ValueError, match="Expected `batch_size`"):
        decisions.targets(TABLE, solvers.Categorical(), batch_size=-1)


# Codes that variables share.


def test_a_restart_is_of_codes_that_all_variables_share():
    model = DiscreteVAE(3, 4, "reinmax", hidden_units=5, seed=0)
    model.build((None, 6, 6))
    logits, embedding = model.encoder.layers[-1], model.decoder.layers[0]
    usage = codebook.CodeUsage(stripes(4), True, logits.name, embedding.name)
    usage.set_model(model)
    with pytest.raises(ValueError, match=r"layers of the 4 codes that all.* 12 logits"):
        usage.on_epoch_begin(1)


@pytest.mark.parametrize("dead_below", [5.0, -1.0, np.nan, 0.0, "0.1"])
def test_a_share_below_which_a_code_is_dead(dead_below):
    with pytest.raises(ValueError, match="Expected `dead_below` between 0 and 1"):
        codebook.CodeUsage(stripes(4), dead_below=dead_below)


@pytest.mark.parametrize("share", [np.full(4, np.nan), np.full(4, 10.0)])
def test_shares_sum_to_one(share):
    with pytest.raises(ValueError, match="Expected shares of codes that sum to 1"):
        codebook.figures(share)


# Arguments.


def test_a_truth_value_of_numpy_is_one_of_python():
    for layer in (estimators.Candidates(averaged=np.True_), estimators.Direct(richardson=np.True_)):
        assert json.loads(json.dumps(layer.get_config()))
    config = StructuredVAE(4, averaged=np.True_, nonnegative=np.True_).get_config()
    assert (config["averaged"], config["nonnegative"]) == (True, True)
    assert json.dumps([config["averaged"], config["nonnegative"]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: PosteriorVAE(CHAIN, estimators.Candidates(CHAIN), epsilon=0.9),
            "Expected no further arguments beside an estimator",
        ),
        (
            lambda: PosteriorVAE(CHAIN, estimators.Candidates(CHAIN), seed=1),
            "Expected no further arguments beside an estimator",
        ),
        (lambda: PosteriorVAE(CHAIN, num_variables=10), "Expected no `num_variables`"),
        (
            lambda: PosteriorVAE(get("class_gaussian", num_categories=3, gaussian_dim=2)),
            "Expected a `posterior` of codes alone",
        ),
        (lambda: decisions.DecisionLoss("maximize"), "Expected `minimize` to be True or False"),
        (lambda: decisions.Regret(minimize="max"), "Expected `minimize` to be True or False"),
        (lambda: decisions.SPOPlus("categorical", "no"), "Expected `minimize` to be True or False"),
        (lambda: layers.PerturbedArgmax(minimize="no"), "Expected `minimize` to be True or False"),
        (lambda: layers.PerturbedArgmax(learn_noise_scale=1), "Expected `learn_noise_scale`"),
        (lambda: estimators.Direct(richardson="no"), "Expected `richardson` to be True or False"),
        (lambda: estimators.Candidates(averaged="no"), "Expected `averaged` to be True or False"),
        (lambda: estimators.Candidates(decode_all=2), "Expected `decode_all` to be True or False"),
        (lambda: estimators.Flips(4, couplings="no"), "Expected `couplings` to be True or False"),
        (lambda: solvers.ShortestPath("no"), "Expected `diagonal` to be True or False"),
        (lambda: solvers.GridPath(clip=1), "Expected `clip` to be True or False"),
        (lambda: solvers.MILP([[1.0]], relax="no"), "Expected `relax` to be True or False"),
        (lambda: solvers.MILP([[1.0]], threads=2), "Expected `threads` to be True or False"),
        (lambda: solvers.register("a", batched="no"), "Expected `batched` to be True or False"),
        (lambda: StructuredVAE(4, averaged="no"), "Expected `averaged` to be True or False"),
        (lambda: StructuredVAE(4, nonnegative=1), "Expected `nonnegative` to be True or False"),
        (lambda: MixtureVAE(generative="no"), "Expected `generative` to be True or False"),
        (lambda: codebook.CodeUsage(None, restart=1), "Expected `restart` to be True or False"),
        (lambda: runs.Run("a", resume="no"), "Expected `resume` to be True or False"),
        (lambda: estimators.Direct("flip_rate=1e-"), "Expected `epsilon` to be a number, a sch"),
        (lambda: estimators.Direct("flip_rate=1.2.3"), "Expected `epsilon` to be a number, a sch"),
        (lambda: solvers.Knapsack(np.array([], int), 2), "Expected `weights`"),
        (lambda: solvers.DagPath(np.zeros([0, 2], int)), "Expected `edges`"),
        (
            lambda: Categorical(tf.zeros([1, 40, 2])).index(tf.ones([1, 1, 40, 2])),
            r"Expected at most 2147483647 configurations",
        ),
    ],
)
def test_an_argument_that_would_be_ignored_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_flip_rate_over_an_example_has_a_variable_to_flip():
    rate = schedules.FlipRate(0.1, over="example")
    model = compiled(DiscreteVAE(1, 3, epsilon=rate, hidden_units=4, seed=0), run_eagerly=True)
    with pytest.raises(ValueError, match="Expected a flip rate over examples of at least one of 1"):
        model.train_on_batch(stripes(4))


def test_noise_may_fall_to_zero():
    fading = keras.optimizers.schedules.PolynomialDecay(1.0, 2, 0.0)
    layer = layers.PerturbedArgmax(noise_scale=fading, loss_scale="relative", seed=0)
    rows = tf.repeat(TABLE, 64, axis=0)
    first = [layer(rows, training=True).numpy()[:, 0].mean() for _ in range(4)]
    assert first[0] < 0.9
    assert first[-1] == 1.0
    loss = decisions.PerturbedFenchelYoung("categorical", noise_scale=fading, seed=0)
    targets = decisions.targets(TABLE, solvers.Categorical())
    values = [float(loss(targets, TABLE)) for _ in range(4)]
    assert values[-1] == pytest.approx(0.0, abs=1e-6)
