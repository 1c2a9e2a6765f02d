"""Every public call with bad values: one error that names the argument, nothing silent.

A row of `TABLE` is a call, its good arguments, and for some of them values that are out of range.
A value that a call may take is not among them: None for a seed, 0 for a weight.
"""

import functools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_direct_opt import (
    direct_argmax,
    direct_loss,
    epsilon_difference,
    estimators,
    labels,
    layers,
    likelihoods,
    losses,
    models,
    posteriors,
    schedules,
    solvers,
)
from tf_direct_opt.callbacks import TensorBoard
from tf_direct_opt.candidates import mean_difference
from tf_direct_opt.pictures import image_grid

DECAY = keras.optimizers.schedules
TO_ZERO = [DECAY.PolynomialDecay(1.0, 10, 0.0), DECAY.CosineDecay(1.0, 10)]
BELOW_ZERO = [DECAY.PolynomialDecay(1.0, 10, -0.5), DECAY.PiecewiseConstantDecay([3], [1.0, -1.0])]

COUNT = [0, -1, 2.5, "3", True, None, [2], np.nan]
LEAST_TWO = [1, *COUNT]
NUMBER = [0.0, -1.0, np.nan, np.inf, "1", True, [1.0], 1j]  # That is to be positive.
WEIGHT = [-1.0, np.nan, np.inf, "1", [1.0], *BELOW_ZERO]
SCHEDULE = [*NUMBER, tf.Variable(1.0), *TO_ZERO, *BELOW_ZERO]
SEED = [-1, 2**63, 1.5, "a", True, [1, 2]]
NAME = ["unknown", "", 3, ["gumbel"], ("direct",)]
NETWORK = ["dense", 3, lambda x: x, keras.layers.Dense]


def _estimators():
    """Every registered estimator with the arguments that it has of these."""
    of = {
        "seed": SEED,
        "epsilon": SCHEDULE,
        "temperature": SCHEDULE,
        "difference": NAME,
        "table": NAME,
        "relaxed": NAME,
        "perturbation": NAME,
        "initial_temperature": NUMBER,
        "initial_step": NUMBER,
        "target": NUMBER,
        "rate": [-1.0, np.nan, "1"],
        "gap": [-1.0, np.nan, np.inf, "1"],
        "num_redraws": COUNT,
        "hidden_units": COUNT,
    }
    for name in estimators.names():
        given = {"num_variables": 3} if name == "flips" else {}
        takes = estimators.arguments(name)
        bad = {argument: values for argument, values in of.items() if argument in takes}
        if "num_samples" in takes:
            baseline = name in ("score_function", "arms", "double_cv")
            bad["num_samples"] = LEAST_TWO if baseline else COUNT
        if name == "candidates":
            bad["num_candidates"] = LEAST_TWO
        if name == "flips":
            bad |= {"num_variables": [0, -1, 2.5, "3", None], "solver": ["unknown", 3]}
        yield functools.partial(estimators.get, name), given, bad


_MODEL = {
    "kl_weight": WEIGHT,
    "hidden_units": COUNT,
    "num_eval_samples": COUNT,
    "likelihood": ["unknown", "", 3, None, {}, ["gaussian"], likelihoods.Gaussian],
    "encoder": NETWORK,
    "decoder": NETWORK,
    "epsilon": [0.0, -1.0, np.nan, np.inf, *TO_ZERO, *BELOW_ZERO],
    "seed": SEED,
}
_LOGITS = tf.zeros([2, 3])
_DIRECT = {
    "logits": _LOGITS,
    "noise": _LOGITS,
    "epsilon": 0.5,
    "solver": solvers.Categorical(),
    "difference": "central",
}
_TENSOR = [tf.fill([2, 3], np.nan), tf.fill([2, 3], np.inf)]
_STEP = [
    0.0,
    -1.0,
    np.nan,
    np.inf,
    tf.constant(np.inf),
    tf.constant(0.0),
    tf.constant(-1.0),
    tf.constant([1.0, 0.0]),
]

TABLE = [
    *_estimators(),
    (
        models.DiscreteVAE,
        {},
        {
            **_MODEL,
            "num_variables": COUNT,
            "num_categories": LEAST_TWO,
            "estimator": [*NAME, None, {}],
            "prior": NAME,
            "temperature": [0.5],
        },
    ),
    (
        models.StructuredVAE,
        {},
        {
            **_MODEL,
            "num_variables": COUNT,
            "num_candidates": [value for value in LEAST_TWO if value is not None],
            "prior": ["learned", "uniform"],
            "structure": NAME,
            "perturbation": NAME,
            "difference": NAME,
            "solver": ["unknown", 3],
            "temperature": [0.5],
        },
    ),
    (
        models.MixtureVAE,
        {},
        {
            **_MODEL,
            "num_categories": LEAST_TWO,
            "gaussian_dim": COUNT,
            "estimator": [*NAME, None, {}],
            "label_loss": NAME,
            "label_epsilon": NUMBER,
            "label_cost": NUMBER,
            "unlabelled_weight": WEIGHT,
            "temperature": [0.5],
        },
    ),
    (
        layers.PerturbedArgmax,
        {},
        {
            "epsilon": SCHEDULE,
            "solver": ["unknown", 3],
            "seed": SEED,
            "difference": NAME,
            "loss_scale": [0.0, -1.0, np.nan, "mean"],
            "noise": NAME[:3],
            "noise_scale": WEIGHT,
            "num_samples": COUNT,
        },
    ),
    (likelihoods.Gaussian, {}, {"scale": NUMBER, "learned": [0, "yes", None]}),
    (likelihoods.DiscretisedLogistic, {}, {"scale": NUMBER, "levels": LEAST_TWO}),
    (likelihoods.Categorical, {}, {"levels": LEAST_TWO}),
    (likelihoods.OfDistribution, {}, {"function": ["normal", 3, None]}),
    (functools.partial(schedules.get, name="epsilon"), {}, {"identifier": [*SCHEDULE, None]}),
    (direct_argmax, _DIRECT, {"epsilon": _STEP, "difference": NAME[:3], "logits": _TENSOR}),
    (
        direct_loss,
        {**_DIRECT, "loss": tf.zeros([2]), "loss_table": _LOGITS},
        {"epsilon": _STEP, "difference": NAME[:3], "logits": _TENSOR, "loss_table": _TENSOR},
    ),
    (
        epsilon_difference,
        {
            "scores": _LOGITS,
            "code": tf.one_hot([0, 1], 3),
            "loss_table": _LOGITS,
            "epsilon": 0.5,
            "solver": solvers.Categorical(),
        },
        {"epsilon": _STEP, "difference": NAME[:3]},
    ),
    (
        labels.direct_label_loss,
        {"logits": _LOGITS, "noise": _LOGITS, "labels": tf.constant([0, -1]), "epsilon": 0.5},
        {
            "labels": [
                tf.constant([0.0, 1.0]),
                tf.constant([0, 3]),
                tf.constant([-2, 0]),
                tf.constant([0, 2**32 + 1], tf.int64),
                tf.eye(2, 3, dtype=tf.int32),
                tf.constant([True, False]),
                tf.constant([0, 1], tf.uint64),
            ],
            "epsilon": _STEP,
            "cost": [0.0, -1.0, np.nan, "1"],
        },
    ),
    (
        losses.bernoulli_nll,
        {"images": tf.zeros([2, 4]), "pixel_logits": tf.zeros([1, 3, 4])},
        {"images": [255.0 * tf.ones([2, 4]), -tf.ones([2, 4]), tf.fill([2, 4], 2)]},
    ),
    (
        mean_difference,
        {"log_probs": tf.math.log([[0.5, 0.2]]), "losses": tf.constant([[3.0, 1.0]])},
        {"difference": NAME[:3], "epsilon": _STEP},
    ),
    (solvers.get, {}, {"identifier": ["unknown", 3, None, {}, ["categorical"]]}),
    (functools.partial(solvers.get, "top_k"), {}, {"k": [-1, 1.5, "2", None]}),
    (
        functools.partial(solvers.get, "chain"),
        {"length": 2, "num_categories": 2},
        {"length": COUNT, "num_categories": COUNT},
    ),
    (functools.partial(solvers.get, "spanning_tree"), {}, {"num_nodes": COUNT}),
    (
        functools.partial(solvers.get, "pairwise_binary"),
        {},
        {"num_variables": [0, -1, 2.5, "3", None, 21]},
    ),
    (posteriors.get, {}, {"identifier": ["unknown", 3, None, {}, ["categorical"]]}),
    (estimators.get, {}, {"identifier": ["unknown", 3, None, {}, ["direct"]]}),
    (
        functools.partial(image_grid),
        {},
        {"images": [tf.zeros([2, 9]), tf.zeros([2, 3, 3, 2]), tf.zeros([2, 3, 3, 3, 1])]},
    ),
    (functools.partial(TensorBoard, "log"), {}, {"images": [np.zeros([2, 9])]}),
]

# What an argument is called in a message, where that is another word.
CALLED = {
    ("get", "identifier"): r"epsilon|solver|posterior|estimator",
    ("direct_loss", "logits"): "logits and noise",
    ("direct_argmax", "logits"): "logits and noise",
}


def pairs():
    for call, good, bad in TABLE:
        function = getattr(call, "func", call)
        name = ".".join([function.__name__, *map(str, getattr(call, "args", ()))])
        for argument, values in bad.items():
            yield name, call, good, argument, values


@pytest.mark.parametrize(
    ("call", "good", "argument", "values"),
    [pytest.param(*case, id=f"{name}-{case[2]}") for name, *case in pairs()],
)
def test_bad_values_are_refused_by_the_name_of_the_argument(call, good, argument, values):
    function = getattr(call, "func", call)
    called = CALLED.get((function.__name__, argument), argument)
    silent = []
    for value in values:
        try:
            call(**{**good, argument: value})
        except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
            told = str(error)
            if not re.search(rf"\b({called})\b", told):
                silent.append((value, f"{type(error).__name__}: {told}"[:200]))
        except Exception as error:  # Any other kind answers from layers below.
            silent.append((value, repr(error)[:200]))
        else:
            silent.append((value, "nothing was said"))
    assert not silent


def test_there_are_as_many_pairs_as_promised():
    assert sum(len(values) for *_, values in pairs()) >= 300


# What a number may also be.


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), np.array(0.5), 0.5])
def test_numbers_of_numpy_are_numbers(value):
    for made in (
        estimators.Direct(epsilon=value).epsilon,
        estimators.GumbelSoftmax(temperature=value).temperature,
        layers.PerturbedArgmax(epsilon=value).epsilon,
        models.DiscreteVAE(kl_weight=value).kl_weight,
    ):
        assert made == 0.5
        assert schedules.serialize(made) == 0.5


@pytest.mark.parametrize("value", [np.int64(3), np.int32(3), np.uint8(3), 3])
def test_counts_of_numpy_are_counts(value):
    model = models.DiscreteVAE(num_categories=value, hidden_units=value, seed=value)
    again = models.DiscreteVAE.from_config(model.get_config())
    assert again.num_categories == again.hidden_units == again.estimator.seeds.seed == 3
    assert estimators.ScoreFunction(num_samples=value).num_samples == 3


# Calls of a model.


def compiled_model():
    model = models.DiscreteVAE(num_categories=3, hidden_units=4, seed=0)
    model.compile("sgd", run_eagerly=True)
    return model


@pytest.mark.parametrize("name", ["loss", "metrics", "weighted_metrics", "loss_weights"])
def test_a_loss_or_metrics_given_to_compile_are_refused(name):
    for kind in (models.DiscreteVAE, models.StructuredVAE, models.MixtureVAE):
        with pytest.raises(ValueError, match=rf"Expected compile\(optimizer=...\) alone.*{name}"):
            kind().compile("adam", **{name: ["mse"]})


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"image": np.zeros([2, 3, 3])}, r"Expected one tensor of images"),
        (np.zeros([2]), r"Expected images \[B, \*image\] of a known size"),
    ],
)
def test_what_are_no_images_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        compiled_model().train_on_batch(images)


def test_calls_that_need_the_size_of_images_say_so():
    for kind in (models.DiscreteVAE, models.StructuredVAE):
        model = kind()
        code = tf.zeros([1, model.num_variables, model.num_categories])
        for call in (lambda m=model: m.sample(2), lambda m=model, c=code: m.decode(c)):
            with pytest.raises(ValueError, match=r"that has seen images.*not built"):
                call()
    with pytest.raises(ValueError, match=r"that has seen images.*not built"):
        models.MixtureVAE().sample(2)


def test_sample_and_decode_refuse_what_they_cannot_take():
    model = compiled_model()
    model.build((None, 3, 3))
    for seed in SEED:
        with pytest.raises(ValueError, match="Expected `seed`"):
            model.sample(2, seed=seed)
    for count in COUNT:
        with pytest.raises(ValueError, match="Expected `num_images`"):
            model.sample(count)
    with pytest.raises(ValueError, match=r"Expected parameters|Expected codes"):
        model.decode(tf.zeros([2, 5]))


def test_integer_logits_are_scores_as_good_as_any():
    loss_fn = lambda codes: tf.reduce_sum(codes * [1.0, 2.0, 3.0], [-1, -2])  # noqa: E731
    whole = tf.constant([[1, 2, 0], [0, 0, 3]])
    for training in (False, True):
        got, expected = (
            estimators.ScoreFunction(seed=0)(logits, loss_fn=loss_fn, training=training)
            for logits in (whole, tf.cast(whole, tf.float32))
        )
        np.testing.assert_array_equal(got, np.broadcast_to(expected, [2]))
