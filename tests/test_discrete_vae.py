import textwrap
import warnings

import keras
import numpy as np
import oracles
import programs
import pytest
import scipy.special
import tensorflow as tf
from replicas import two_replicas

from tf_direct_opt import estimators, schedules
from tf_direct_opt.models import DiscreteVAE

SLOW = pytest.mark.slow


def stripes(count=400, size=6):
    """Images that four codes explain: stripes of four kinds, a tenth of the bits flipped."""
    generator = np.random.default_rng(0)
    kinds = generator.integers(0, 2, [4, size, size])
    images = kinds[generator.integers(0, 4, count)] ^ (generator.random([count, size, size]) < 0.1)
    return images.astype(np.float32)


def make_model(compile_options=None, **config):
    defaults = {"num_categories": 4, "epsilon": 0.3, "kl_weight": 1.0, "hidden_units": 16}
    model = DiscreteVAE(**{**defaults, "seed": 0, **config})
    model.compile(keras.optimizers.Adam(1e-2), **(compile_options or {}))
    return model


def fit(model, **options):
    options = {"epochs": 3, "batch_size": 50, "verbose": 0, "shuffle": False, **options}
    if not model.built:  # Keras traces the first step of an unbuilt model twice.
        with model.distribute_strategy.scope():
            model.build((None, 6, 6))
    return model.fit(stripes(), **options).history


def drawn(model):
    """The model with weights that make every code decode to something else, untrained."""
    model.build((None, 6, 6))
    generator = np.random.default_rng(3)
    for weight in model.trainable_weights:
        weight.assign(generator.normal(scale=0.2, size=weight.shape))
    return model


def weights_of(model):
    return [weight.numpy() for weight in model.trainable_weights]


def enumerated_evaluation(model, images):
    """Mean -ELBO, reconstruction, KL and -log p(x) over all K^N codes, in float64."""
    codes = oracles.all_codes(model.num_variables, model.num_categories)
    pixels = model.decoder(codes.reshape(len(codes), -1).astype(np.float32)).numpy()
    likelihood = scipy.special.expit(pixels.astype(np.float64))
    flat = images.reshape(len(images), 1, -1)
    losses = -np.log(np.where(flat == 1, likelihood, 1 - likelihood)).sum(axis=-1)
    logits = model(images)["logits"].numpy().astype(np.float64)
    log_q = np.array([oracles.log_posterior(h, codes) for h in logits])
    reconstruction = np.sum(np.exp(log_q) * losses, axis=1)
    kl = np.sum(np.exp(log_q) * (log_q + np.log(len(codes))), axis=1)
    log_likelihood = scipy.special.logsumexp(-losses, axis=1) - np.log(len(codes))
    return {
        "loss": np.mean(reconstruction + kl),
        "reconstruction": np.mean(reconstruction),
        "kl": np.mean(kl),
        "likelihood": -np.mean(log_likelihood),
    }


@pytest.mark.parametrize("estimator", ["direct", pytest.param("exact", marks=SLOW)])
def test_training_finds_the_codes(estimator):
    # Eight codes for four kinds: a kind that no code has found after training is too easy a miss.
    config = {"estimator": estimator, "kl_weight": schedules.two_phase(0.0, 1.0, 160)}
    config["num_categories"] = 8
    if estimator == "exact":
        config["epsilon"] = None
    model = make_model({"steps_per_execution": 8}, **config)
    fit(model, epochs=60)
    test = model.evaluate(stripes(), verbose=0, return_dict=True)
    # Four equiprobable stripes under bits flipped with probability 0.1: log 4 + 36 H(0.1) nats.
    entropy = np.log(4) - 36 * (0.1 * np.log(0.1) + 0.9 * np.log(0.9))
    assert test["loss"] < entropy + 1.5
    assert test["code_perplexity"] > 3.8


# The one of structured posteriors has its own model. Fast ones: test_model_trust.
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*estimators.names()} - {"flips"}))
def test_every_estimator_trains(name):
    variables = 1 if name == "exact" else 3
    estimator = estimators.get(name, seed=0)
    model = make_model(
        num_variables=variables, num_categories=2, estimator=estimator, epsilon=None, seed=None
    )
    model.optimizer.learning_rate = 0.03
    before = model.evaluate(stripes(), verbose=0, return_dict=True)["loss"]
    fit(model, epochs=7)
    # The entropy of the average image, 25 nats, is what a model without a code reaches.
    assert model.evaluate(stripes(), verbose=0, return_dict=True)["loss"] < before - 3


def test_fit_reports_what_it_trains_and_validation_what_it_measures():
    history = fit(make_model(), validation_data=(stripes(100),))
    training = {"loss", "reconstruction", "kl", "kl_weight", "epsilon", "flip_rate"}
    evaluation = {"val_loss", "val_reconstruction", "val_kl", "val_negative_log_likelihood"}
    evaluation.add("val_bits_per_dimension")
    both = {"code_perplexity", "val_code_perplexity"}
    assert set(history) == training | evaluation | both
    assert all(len(values) == 3 and np.isfinite(values).all() for values in history.values())
    np.testing.assert_allclose(
        np.array(history["reconstruction"]) + history["kl"], history["loss"], rtol=1e-5
    )
    assert np.all(np.array(history["flip_rate"]) > 0)


@pytest.mark.parametrize("batch_size", [32, 400])
def test_evaluate_is_exact_for_one_variable(batch_size):
    model = drawn(make_model())
    # 0.3 in a schedule has no say: beta is 1 in an evaluation.
    model.kl_weight = 0.3
    got = model.evaluate(stripes(), batch_size=batch_size, verbose=0, return_dict=True)
    expected = enumerated_evaluation(model, stripes())
    assert got["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert got["reconstruction"] == pytest.approx(expected["reconstruction"], rel=1e-5)
    assert got["kl"] == pytest.approx(expected["kl"], rel=1e-4)
    assert got["negative_log_likelihood"] == pytest.approx(expected["likelihood"], rel=1e-5)


def test_evaluate_of_several_variables_estimates_the_enumerated_bounds():
    # 400 images of 2000 draws each: the reconstruction's standard error is below 0.05 nats.
    model = drawn(make_model(num_variables=3, num_categories=3, num_eval_samples=2000))
    got = model.evaluate(stripes(), batch_size=50, verbose=0, return_dict=True)
    expected = enumerated_evaluation(model, stripes())
    assert got["loss"] == pytest.approx(expected["loss"], abs=0.2)
    assert got["kl"] == pytest.approx(expected["kl"], rel=1e-4)
    assert got["importance_weighted_nll"] == pytest.approx(expected["likelihood"], abs=0.1)
    assert got == model.evaluate(stripes(), batch_size=50, verbose=0, return_dict=True)


def test_decoded_codes():
    single = make_model()
    single.build((None, 6, 6))
    np.testing.assert_allclose(
        single.decoded_codes(), single.decode(tf.eye(4)[:, tf.newaxis]), rtol=1e-6
    )
    several = make_model(num_variables=2, num_categories=3)
    several.build((None, 6, 6))
    images = several.decoded_codes()
    assert images.shape == (6, 6, 6)
    np.testing.assert_allclose(images[4], several.decode(tf.one_hot([[0, 1]], 3))[0], rtol=1e-6)


def test_predict_and_sample():
    model = drawn(make_model(num_variables=2, num_categories=3))
    out = model.predict(stripes(7), verbose=0)
    assert out["probabilities"].shape == out["code"].shape == (7, 2, 3)
    np.testing.assert_allclose(out["probabilities"].sum(axis=-1), 1.0, rtol=1e-6)
    modes = np.eye(3)[out["probabilities"].argmax(axis=-1)]
    np.testing.assert_array_equal(out["code"], modes)
    np.testing.assert_allclose(out["reconstruction"], model.decode(out["code"]), rtol=1e-5)
    samples = model.sample(50, seed=1)
    assert samples.shape == (50, 6, 6)
    assert np.all((samples > 0) & (samples < 1))
    every = model.decode(oracles.all_codes(2, 3).astype(np.float32)).numpy()
    distance = np.abs(samples.numpy()[:, np.newaxis] - every).max(axis=(2, 3))
    np.testing.assert_allclose(distance.min(axis=1), 0.0, atol=1e-6)
    assert len(np.unique(distance.argmin(axis=1))) > 5
    np.testing.assert_array_equal(samples, model.sample(50, seed=1))
    assert np.any(model.sample(50) != model.sample(50))


def test_own_encoder_and_decoder_with_image_channels():
    images = stripes()[..., np.newaxis]
    encoder = keras.Sequential(
        [
            keras.layers.Conv2D(4, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(8, kernel_regularizer="l2"),
            keras.layers.Reshape((2, 4)),
        ]
    )
    decoder = keras.Sequential([keras.layers.Dense(36), keras.layers.Reshape((6, 6, 1))])
    model = make_model(num_variables=2, encoder=encoder, decoder=decoder)
    history = model.fit(images, batch_size=50, epochs=2, verbose=0).history
    penalty = history["loss"][-1] - history["reconstruction"][-1] - history["kl"][-1]
    assert penalty > 1e-3
    assert model.predict(images[:3], verbose=0)["reconstruction"].shape == (3, 6, 6, 1)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    assert [w.shape for w in again.trainable_weights] == [w.shape for w in model.trainable_weights]


def test_networks_are_in_training_mode_in_fit_and_in_inference_mode_elsewhere():
    # Batch normalisation moves its mean in training mode, and then only.
    norms = keras.layers.BatchNormalization(), keras.layers.BatchNormalization()
    encoder, decoder = (
        keras.Sequential([keras.layers.Flatten(), norm, keras.layers.Dense(size)])
        for norm, size in zip(norms, (4, 36), strict=True)
    )
    model = make_model(encoder=encoder, decoder=decoder)
    fit(model, epochs=1)
    means = [norm.moving_mean.numpy() for norm in norms]
    assert all(np.all(mean > 0) for mean in means)
    model.evaluate(stripes(), verbose=0)
    model.predict(stripes(), verbose=0)
    for norm, mean in zip(norms, means, strict=True):
        np.testing.assert_array_equal(norm.moving_mean, mean)


@pytest.mark.slow
def test_compiled_by_xla_it_trains_as_well():
    model = make_model({"jit_compile": True})
    losses = fit(model, epochs=20)["loss"]
    assert losses[-1] < losses[0] - 3


@pytest.fixture(scope="module")
def scheduled():
    """Under schedules, a model of single steps and one of four in a call; and what fit said."""
    models, histories = [], []
    for steps in (1, 4):
        keras.utils.set_random_seed(1)
        model = make_model(
            {"steps_per_execution": steps},
            epsilon=schedules.two_phase(1.0, 0.5, 8),
            kl_weight=keras.optimizers.schedules.PolynomialDecay(0.0, 16, 1.0),
        )
        histories.append(fit(model))
        models.append(model)
    return models, histories


def test_several_steps_in_one_execution_are_the_same_steps(scheduled):
    models, (one, many) = scheduled
    assert one == many
    for a, b in zip(*map(weights_of, models), strict=True):
        np.testing.assert_array_equal(a, b)


def test_schedules_follow_the_optimizer(scheduled):
    _, (history, _) = scheduled  # 8 steps an epoch.
    np.testing.assert_allclose(history["epsilon"], [1.0, 0.5, 0.5])
    np.testing.assert_allclose(history["kl_weight"], [3.5 / 16, 11.5 / 16, 1.0], rtol=1e-6)


def test_defaults_train_the_true_bound_whatever_the_length_of_the_training():
    model = DiscreteVAE()
    for step in (0, 1, 10**6):
        assert float(schedules.value(model.kl_weight, step)) == 1.0
        assert float(schedules.value(model.estimator.epsilon, step)) == pytest.approx(0.1)
    model.build((None, 28, 28))
    shapes = [tuple(weight.shape) for weight in model.trainable_weights if len(weight.shape) == 2]
    assert shapes == [(784, 300), (300, 40), (40, 300), (300, 784)]


def test_a_training_that_ends_before_beta_is_1_says_so():
    model = make_model({"run_eagerly": True}, kl_weight=schedules.two_phase(0.0, 1.0, 3))
    with pytest.warns(UserWarning, match="ended at step 2 with `kl_weight` 0: what it trained"):
        fit(model, epochs=1, batch_size=200)
    with warnings.catch_warnings(record=True) as said:
        fit(model, epochs=1, batch_size=200)
        fit(make_model({"run_eagerly": True}, kl_weight=0.5), epochs=1, batch_size=200)
    assert said == []


def test_sample_weight_weighs_the_examples():
    weight = np.zeros(400, np.float32)
    weight[:200] = 2.0
    weighted, half = make_model(), make_model()
    weighted.build((None, 6, 6))
    half.build((None, 6, 6))
    for to, source in zip(half.weights, weighted.weights, strict=True):
        to.assign(source)
    options = {"batch_size": 400, "verbose": 0, "return_dict": True}
    # Keras drops the weights of a data set without targets; the targets are not looked at.
    got = weighted.evaluate(stripes(), np.zeros(400), sample_weight=weight, **options)
    want = half.evaluate(stripes()[:200], **options)
    assert got["loss"] == pytest.approx(want["loss"], rel=1e-5)


# Distribution: see also test_replicas.


@pytest.mark.slow
def test_direct_trains_on_two_replicas_with_different_noise():
    with two_replicas().scope():
        model = make_model({"jit_compile": False})
    losses = fit(model, epochs=20)["loss"]
    assert losses[-1] < losses[0] - 3


def test_first_loss_scale_is_for_sums_and_the_one_given_stays(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    model = make_model()
    model.compile("adam")
    model.build((None, 8, 8))
    model.optimizer.build(model.trainable_variables)
    assert float(model.optimizer.dynamic_scale) == 2**10
    model.optimizer.dynamic_scale.assign(2.0**7)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").optimizer
    assert isinstance(loaded.inner_optimizer, keras.optimizers.Adam)
    assert float(loaded.dynamic_scale) == 2**7
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), 2.0**4))
    assert model.optimizer.initial_scale == 2**4
    for arguments in ({"auto_scale_loss": False}, {"optimizer": None}):
        model.compile(**{"optimizer": "adam"} | arguments)
        assert not isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)


@pytest.mark.slow
def test_mixed_precision_trains():
    keras.config.set_dtype_policy("mixed_float16")
    model = make_model()
    losses = fit(model, epochs=20)["loss"]
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert losses[-1] < losses[0] - 3


# Saving.


def in_new_process(folder, code):
    """Runs a program that ends by printing one JSON line; returns what it says."""
    program = folder / "program.py"
    program.write_text(textwrap.dedent(code))
    return programs.train(program)


def test_saved_model_in_a_new_process(tmp_path):
    model = make_model(
        epsilon=schedules.FlooredExponentialDecay(), kl_weight=schedules.two_phase(0.0, 1.0, 9)
    )
    fit(model)
    model.save(tmp_path / "model.keras")
    model.export(tmp_path / "exported", verbose=False)
    np.save(tmp_path / "images.npy", stripes(40))
    # The object is kept: in one expression, load(...).serve(...) loses its variables.
    said = in_new_process(
        tmp_path,
        f"""
        import json, keras, numpy as np, tensorflow as tf
        images = np.load(r"{tmp_path}/images.npy")
        exported = tf.saved_model.load(r"{tmp_path}/exported")
        served = exported.serve(images)["reconstruction"].numpy()
        import tf_direct_opt
        model = keras.saving.load_model(r"{tmp_path}/model.keras", safe_mode=True)
        out = model.predict(images, verbose=0)
        print(json.dumps({{
            "reconstruction": out["reconstruction"].tolist(),
            "code": out["code"].tolist(),
            "served": served.tolist(),
            "test": model.evaluate(images, verbose=0, return_dict=True),
            "config": repr(model.get_config()),
        }}))
    """,
    )
    out = model.predict(stripes(40), verbose=0)
    np.testing.assert_array_equal(said["code"], out["code"])
    np.testing.assert_array_equal(said["reconstruction"], out["reconstruction"])
    np.testing.assert_allclose(said["served"], out["reconstruction"], rtol=1e-5)
    assert said["test"] == model.evaluate(stripes(40), verbose=0, return_dict=True)


# Bad input.


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_categories": 1}, "Expected `num_categories` to be an integer of at least 2"),
        ({"num_variables": 0}, "Expected `num_variables` to be an integer of at least 1"),
        ({"num_categories": 2.5}, "Expected `num_categories` .* received 2.5"),
        ({"hidden_units": 0}, "Expected `hidden_units`"),
        ({"num_eval_samples": 0}, "Expected `num_eval_samples`"),
        ({"epsilon": 0.0}, "Expected `epsilon` to be greater than 0"),
        ({"epsilon": -0.1}, "Expected `epsilon` to be greater than 0"),
        ({"kl_weight": -0.1}, "Expected `kl_weight` to be at least 0"),
        ({"estimator": "reinforce"}, "Expected `estimator` to be one of"),
        ({"estimator": estimators.Exact()}, "Expected no further arguments"),
    ],
)
def test_bad_arguments_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        make_model(**config)


def test_networks_that_do_not_fit_are_refused():
    for name, units in (("encoder", 5), ("decoder", 35)):
        network = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(units)], name=name)
        with pytest.raises(
            ValueError, match=f"outputs an example from `{name}`; received .*{units}"
        ):
            make_model(**{name: network}).build((None, 6, 6))


def test_images_of_unknown_size_are_refused():
    with pytest.raises(ValueError, match=r"Expected images .* of a known size"):
        make_model().build((None, None, 6))


def test_exact_enumeration_of_several_variables_is_refused():
    with pytest.raises(ValueError, match="Expected one variable for exact enumeration"):
        make_model(num_variables=2, estimator="exact", epsilon=None).build((None, 6, 6))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_non_finite_images_stop_the_run(likelihood):
    images = stripes()
    images[3] = np.nan
    # Whichever it is: on many CPUs the encoder's ReLU makes 0 of NaN.
    model = make_model(likelihood=likelihood)
    for use in (model.fit, model.predict):
        with pytest.raises(tf.errors.InvalidArgumentError, match="Expected finite images"):
            use(images, batch_size=50, verbose=0)
