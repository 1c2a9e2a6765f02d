import functools

import keras
import numpy as np
import oracles
import pytest
import scipy.special
import sklearn.metrics
import tensorflow as tf
from test_discrete_vae import in_new_process

from tf_direct_opt import estimators, schedules
from tf_direct_opt.models import MixtureVAE

K, D = 4, 3


def labelled_stripes(count=400, size=6):
    """Images of four kinds, a tenth of their bits flipped, and the kind of each."""
    generator = np.random.default_rng(0)
    kinds = generator.integers(0, 2, [K, size, size])
    labels = generator.integers(0, K, count)
    images = kinds[labels] ^ (generator.random([count, size, size]) < 0.1)
    return images.astype(np.float32), labels.astype(np.int32)


def few_labels(every=10):
    """Labels of one image in ten, -1 for the others."""
    _, labels = labelled_stripes()
    return np.where(np.arange(len(labels)) % every == 0, labels, -1)


def make_model(compile_options=None, **config):
    defaults = {"num_categories": K, "gaussian_dim": D, "hidden_units": 16, "seed": 0}
    if config.get("estimator", "direct") == "direct":
        defaults["epsilon"] = 0.3
    model = MixtureVAE(**{**defaults, **config})
    model.compile(keras.optimizers.Adam(1e-2), **(compile_options or {}))
    return model


def fit(model, labels=None, epochs=3):
    options = {"epochs": epochs, "batch_size": 50, "verbose": 0, "shuffle": False}
    images, _ = labelled_stripes()
    if not model.built:  # Keras traces the first step of an unbuilt model twice.
        model.build((None, *images.shape[1:]))
    return model.fit(images, labels, **options).history


def evaluate(model, images, labels=None):
    return model.evaluate(images, labels, batch_size=200, verbose=0, return_dict=True)


def accuracy(model):
    """That of the most probable classes of all images."""
    images, labels = labelled_stripes()
    return np.mean(model(images)["probabilities"].numpy().argmax(axis=1) == labels)


@functools.cache
def trained():
    """A model that tests look at and do not train on, and its history.

    (A fixture would be made before the dtype policy of the test before is taken back.)
    """
    model = make_model()
    return model, fit(model, few_labels(), epochs=15)


# The objective in NumPy, float64, its gradients as finite differences.


def gradient_model(**config):
    """A model of images of 2 x 3 pixels whose classes differ a lot, and its decoder's weights."""
    model = make_model(hidden_units=8, **config)
    model.build((None, 2, 3))
    generator = np.random.default_rng(1)
    weights = [generator.normal(size=weight.shape) for weight in model.decoder.get_weights()]
    model.decoder.set_weights(weights)
    return model, [weight.astype(np.float64) for weight in model.decoder.get_weights()]


def gradient_problem(batch=6):
    """Images of 2 x 3 pixels and parameters of their posteriors, both float32."""
    generator = np.random.default_rng(2)
    images = generator.integers(0, 2, [batch, 2, 3]).astype(np.float32)
    return images, generator.normal(size=[batch, K * (1 + 2 * D)]).astype(np.float32)


def split(parameters):
    """Logits [B, K], mean and scale [B, K, D]."""
    logits, mean, scale = np.split(parameters.astype(np.float64), [K, K + K * D], axis=1)
    mean, scale = (part.reshape(-1, K, D) for part in (mean, scale))
    return logits, mean, np.log1p(np.exp(scale)) + 1e-4


def class_losses(weights, images, gaussian):
    """f(x, k, w_k) for w [B, K, D], or [1, K, D]: [B, K]."""
    first, bias, second, last_bias = weights
    # A class has the rows of its own among the first weights: all others meet zeros.
    hidden = np.einsum("bkd,kdh->bkh", gaussian, first.reshape(K, D, -1)) + bias
    pixels = np.maximum(hidden, 0.0) @ second + last_bias
    flat = images.reshape(len(images), 1, -1)
    return (np.logaddexp(0.0, pixels) - flat * pixels).sum(axis=-1)


def gaussian_kl(mean, scale):
    return (0.5 * (mean**2 + scale**2 - 1.0) - np.log(scale)).sum(axis=-1)


def objective(weights, images, parameters, noise, labels, kl_weight, label_epsilon):
    """What training minimises, with the cross-entropy for the label loss: [B]."""
    logits, mean, scale = split(parameters)
    log_q = scipy.special.log_softmax(logits, axis=1)
    costs = class_losses(weights, images, mean + scale * noise)
    costs += kl_weight * (np.log(K) + gaussian_kl(mean, scale))
    free = np.sum(np.exp(log_q) * (costs + kl_weight * log_q), axis=1)
    known = (costs - log_q / label_epsilon)[np.arange(len(labels)), labels]
    return np.where(labels >= 0, known, free)


def slope(function, at, step=1e-5):
    """Central differences of a function [B, n] -> [B]: [B, n]."""
    at = at.astype(np.float64)
    steps = step * np.eye(at.shape[1])
    return np.stack([(function(at + e) - function(at - e)) / (2 * step) for e in steps], axis=1)


def training_gradients(model, images, parameters, labels):
    """Mean loss, and gradients of its sum over examples towards parameters and decoder."""
    parameters = tf.constant(parameters)
    variables = [parameters, *model.decoder.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        labels = None if labels is None else tf.constant(labels)
        loss = model.compute_loss(tf.constant(images), labels, {"parameters": parameters})
        total = loss * len(images)
    of_parameters, *of_decoder = tape.gradient(total, variables)
    return float(loss), of_parameters.numpy(), [tf.convert_to_tensor(g).numpy() for g in of_decoder]


def recorded_noise(model, parameters, monkeypatch):
    """A list that is given the noise of the Gaussians, [B, K, D], of every step."""
    noise, make_loss_fn = [], model.make_loss_fn
    _, mean, scale = split(parameters)

    def recording(images, draw, *arguments, **options):
        noise.append((draw.numpy() - mean) / scale)
        return make_loss_fn(images, draw, *arguments, **options)

    monkeypatch.setattr(model, "make_loss_fn", recording)
    return noise


SETTINGS = {"kl_weight": 0.7, "label_epsilon": 0.5}


@pytest.mark.parametrize("estimator", ["exact", "direct", "gumbel_softmax"])
def test_gradients_are_those_of_the_objective(estimator, monkeypatch):
    # By enumeration for all images; whatever the estimator, for the labelled ones.
    model, weights = gradient_model(estimator=estimator, label_loss="cross_entropy", **SETTINGS)
    images, parameters = gradient_problem()
    labels = np.array([-1, -1, -1, 0, 3, 2] if estimator == "exact" else [1, 2, 2, 0, 3, 2])
    noise = recorded_noise(model, parameters, monkeypatch)
    loss, of_parameters, of_decoder = training_gradients(model, images, parameters, labels)

    def at(parameters, weights=weights):
        return objective(weights, images, parameters, noise[0], labels, **SETTINGS)

    assert abs(noise[0]).max() > 1
    assert loss == pytest.approx(np.mean(at(parameters)), rel=1e-4)
    expected = slope(at, parameters)
    np.testing.assert_allclose(of_parameters, expected, atol=1e-3 * abs(expected).max())
    # A class that an image is not of has nothing to learn from it.
    known = labels >= 0
    others = np.repeat(np.arange(K) != labels[known, np.newaxis], D, axis=1)
    of_mean, of_scale = np.split(of_parameters[known, K:], 2, axis=1)
    np.testing.assert_array_equal(of_mean[others], 0.0)
    np.testing.assert_array_equal(of_scale[others], 0.0)
    # The decoder: along one direction of each of its weights.
    generator = np.random.default_rng(3)
    for i, gradient in enumerate(of_decoder):
        direction = generator.normal(size=gradient.shape)
        sums = []
        for step in (1e-5, -1e-5):
            moved = [w + step * direction if j == i else w for j, w in enumerate(weights)]
            sums.append(np.sum(at(parameters, moved)))
        along = float(np.sum(gradient * direction))
        scale = float(np.linalg.norm(gradient) * np.linalg.norm(direction))
        assert (sums[0] - sums[1]) / 2e-5 == pytest.approx(along, abs=1e-4 * scale)


@pytest.mark.parametrize("label_loss", ["direct", "cross_entropy"])
def test_the_class_of_a_labelled_image_is_moved_by_the_label_loss_alone(label_loss):
    images, parameters = gradient_problem()
    parameters[:, :K] = 0.0  # So that some are wrong: a right one has no direct gradient.
    labels = np.array([1, 2, 2, 0, 3, 2])
    gradients = []
    for config in (
        {"estimator": "direct"},
        {"estimator": "exact"},
        {"estimator": "gumbel_softmax"},
        {"generative": False},
    ):
        model, _ = gradient_model(label_loss=label_loss, **config)
        gradients.append(training_gradients(model, images, parameters, labels)[1])
    assert np.any(gradients[-1][:, :K])
    np.testing.assert_array_equal(gradients[-1][:, K:], 0.0)
    for gradient in gradients[:-1]:
        np.testing.assert_array_equal(gradient[:, :K], gradients[-1][:, :K])
        assert np.any(gradient[:, K:])


# Each test compares at most 15 entries at 4 standard errors: fails for 1 set of seeds in 1000.
DRAWS = 40_000


@pytest.mark.parametrize("epsilon", [1.0, 0.2])
def test_direct_gradient_of_fixed_gaussians_is_the_closed_form(epsilon):
    model, weights = gradient_model(epsilon=epsilon)
    images, parameters = gradient_problem(3)
    gaussian = np.random.default_rng(4).normal(size=[3, K, D]).astype(np.float32)
    logits = tf.constant(np.repeat(parameters[:, np.newaxis, :K], DRAWS, axis=0))
    loss_fn = model.make_loss_fn(
        tf.constant(np.repeat(images, DRAWS, axis=0)),
        draw=tf.constant(np.repeat(gaussian, DRAWS, axis=0)),
    )
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = model.estimator(logits, loss_fn=loss_fn, training=True)
    samples = tape.gradient(loss, logits).numpy().reshape(3, DRAWS, K)
    losses = class_losses(weights, images, gaussian)
    for i, h in enumerate(parameters[:, :K].astype(np.float64)):
        expected = oracles.direct_gradient(h, losses[i], epsilon, "toward_better")
        oracles.assert_mean_is(samples[i], expected)
        # The loss is that of the code drawn.
        mean = scipy.special.softmax(h) @ losses[i]
        oracles.assert_mean_is(loss.numpy().reshape(3, DRAWS)[i], mean)


def test_direct_gradient_of_the_unlabelled_objective_is_the_closed_form():
    # Components of scale 1e-4 leave the class as the only noise: f moves by less than 1e-2 nats.
    kl_weight, epsilon = 0.7, 0.3
    model, weights = gradient_model(epsilon=epsilon, kl_weight=kl_weight)
    images, parameters = gradient_problem(3)
    parameters[:, K + K * D :] = -20.0
    logits, mean, scale = split(parameters)
    _, gradient, _ = training_gradients(
        model, np.repeat(images, DRAWS, axis=0), np.repeat(parameters, DRAWS, axis=0), None
    )
    samples = gradient[:, :K].reshape(3, DRAWS, K)
    costs = class_losses(weights, images, mean) + kl_weight * gaussian_kl(mean, scale)
    for i, h in enumerate(logits):
        entropic = oracles.true_gradient(h, scipy.special.log_softmax(h))
        expected = oracles.direct_gradient(h, costs[i], epsilon, "toward_better")
        oracles.assert_mean_is(samples[i], expected + kl_weight * entropic)


def test_kl_is_that_of_draws():
    # 2 images of 200 000 draws, 4 standard errors: fails for 1 set of seeds in 8000.
    model, _ = gradient_model()
    _, parameters = gradient_problem(2)
    posterior = model.posterior(tf.constant(parameters))
    kl, probabilities = posterior.kl_to_prior(), posterior.marginals()
    logits, mean, scale = split(parameters)
    p = scipy.special.softmax(logits, axis=1)
    np.testing.assert_allclose(probabilities[:, 0], p, rtol=1e-5)
    generator = np.random.default_rng(5)
    for i in range(2):
        z = generator.choice(K, 200_000, p=p[i])
        noise = generator.normal(size=[200_000, D])
        w = mean[i, z] + scale[i, z] * noise
        log_q = np.log(p[i, z]) - np.sum(0.5 * noise**2 + np.log(scale[i, z]), axis=1)
        log_p = -np.log(K) - np.sum(0.5 * w**2, axis=1)
        oracles.assert_mean_is(log_q - log_p, float(kl[i]))


# Labels first, then both.


@pytest.mark.parametrize(
    "estimator",
    ["direct", *(pytest.param(e, marks=pytest.mark.slow) for e in ("exact", "gumbel_softmax"))],
)
def test_unlabelled_weight_is_that_of_the_class_alone(estimator):
    images, parameters = gradient_problem(64)
    labels = np.where(np.arange(64) % 2, -1, 1)
    free = labels == -1
    gradients = {}
    for weight in (0.0, 0.5, 1.0, schedules.two_phase(0.0, 1.0, 3)):
        model, _ = gradient_model(estimator=estimator, unlabelled_weight=weight)
        gradients[weight] = training_gradients(model, images, parameters, labels)[1]
    whole, (none, half, first_phase) = (
        gradients[1.0],
        (gradient for weight, gradient in gradients.items() if weight != 1.0),
    )
    np.testing.assert_array_equal(none[free, :K], 0.0)
    np.testing.assert_allclose(half[free, :K], 0.5 * whole[free, :K], atol=1e-5)
    assert np.any(whole[free, :K])
    np.testing.assert_array_equal(none[~free, :K], whole[~free, :K])
    assert np.any(none[free, K:])
    for gradient in (none, half):
        np.testing.assert_allclose(gradient[:, K:], whole[:, K:], atol=1e-4)
    np.testing.assert_array_equal(first_phase, none)
    # The last model again: its noise has moved on, and so has its optimizer.
    for steps, moved in ((2, False), (3, True)):
        model.optimizer.iterations.assign(steps)
        gradient = training_gradients(model, images, parameters, labels)[1]
        assert np.any(gradient[free, :K]) == moved


# Training.


def test_classes_are_learned_from_few_labels():
    model, _ = trained()
    test = evaluate(model, *labelled_stripes())
    assert test["accuracy"] == pytest.approx(accuracy(model))
    assert test["accuracy"] > 0.9
    # 25 nats, the entropy of the average image, is what a model without a code reaches.
    assert test["loss"] < 22


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        {"label_loss": "direct", "label_cost": 20.0},
        pytest.param({"label_loss": "cross_entropy"}, marks=pytest.mark.slow),
        pytest.param(
            {"label_loss": "cross_entropy", "estimator": "gumbel_softmax"}, marks=pytest.mark.slow
        ),
    ],
)
def test_other_losses_and_estimators_learn_them_as_well(config):
    model = make_model(**config)
    history = fit(model, few_labels(), epochs=15)
    assert accuracy(model) > 0.9
    assert history["reconstruction"][-1] + history["kl"][-1] < 22
    # What the estimator reports is among the history.
    assert ("temperature" in history) == (config.get("estimator") == "gumbel_softmax")


@pytest.mark.slow
def test_without_the_generative_part_the_labels_still_teach_the_encoder():
    model = make_model(generative=False)
    model.build((None, 6, 6))
    before = model.decoder.get_weights()
    history = fit(model, few_labels(), epochs=15)
    assert accuracy(model) > 0.9
    for weight, value in zip(model.decoder.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)
    assert history["loss"] == history["label_loss"]


def test_labels_that_are_not_given_are_none():
    images, parameters = gradient_problem()
    gradients = []
    for labels in (None, np.full(6, -1)):
        model, _ = gradient_model()
        gradients.append(training_gradients(model, images, parameters, labels)[1])
    np.testing.assert_array_equal(*gradients)
    images, labels = labelled_stripes()
    history = make_model({"run_eagerly": True}).fit(images[:32], verbose=0).history
    assert history["accuracy"] == history["label_loss"] == [0.0]
    assert np.isfinite(history["loss"]).all()
    model, _ = trained()
    without, given = evaluate(model, images), evaluate(model, images, labels)
    assert (without.pop("accuracy"), given.pop("accuracy") > 0) == (0.0, True)
    # What else is measured does not look at the labels.
    assert without == given


def test_fit_and_evaluate_report_what_the_documentation_says():
    model, history = trained()
    assert set(history) == {
        "loss", "reconstruction", "kl", "kl_weight", "label_loss", "code_perplexity", "accuracy",
        "epsilon", "flip_rate",
    }  # fmt: skip
    assert all(len(values) == 15 and np.isfinite(values).all() for values in history.values())
    np.testing.assert_allclose(
        np.array(history["reconstruction"]) + history["kl"] + history["label_loss"],
        history["loss"],
        rtol=1e-5,
    )
    assert history["accuracy"][-1] > 0.9
    test = evaluate(model, *labelled_stripes())
    assert set(test) == {
        "loss", "reconstruction", "kl", "importance_weighted_nll", "code_perplexity", "accuracy",
        "bits_per_dimension",
    }  # fmt: skip
    assert test["reconstruction"] + test["kl"] == pytest.approx(test["loss"], rel=1e-5)
    assert test == evaluate(model, *labelled_stripes())


@pytest.mark.slow
def test_mixed_precision_trains():
    keras.config.set_dtype_policy("mixed_float16")
    model = make_model()
    history = fit(model, few_labels(), epochs=15)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert history["loss"][-1] < history["loss"][0] - 3
    assert accuracy(model) > 0.9


# Evaluation.


@pytest.mark.slow
def test_evaluate_is_the_integral_over_the_gaussian():
    # D = 1, so that grids of the Gaussian give everything. 40 images of 300 draws that nothing
    # shares: the standard error of the reconstruction is below 0.05 nats.
    model = MixtureVAE(num_categories=K, gaussian_dim=1, hidden_units=16, seed=0)
    model.build((None, 6, 6))
    generator = np.random.default_rng(6)
    weights = [generator.normal(size=weight.shape) for weight in model.decoder.get_weights()]
    model.decoder.set_weights(weights)
    images, _ = labelled_stripes(40)
    parameters = model(images)["parameters"].numpy().astype(np.float64)
    logits, mean, scale = np.split(parameters, 3, axis=1)
    scale = np.log1p(np.exp(scale)) + 1e-4
    grid = np.linspace(-10, 10, 4001)
    first, bias, second, last_bias = weights
    pixels = np.maximum(grid[:, np.newaxis, np.newaxis] * first + bias, 0) @ second + last_bias
    losses = np.logaddexp(0, pixels).sum(axis=-1) - np.einsum(
        "gkp,bp->bgk", pixels, images.reshape(40, -1)
    )  # [40, 4001, K]
    log_prior = -0.5 * grid**2 - 0.5 * np.log(2 * np.pi) + np.log(grid[1] - grid[0]) - np.log(K)
    exact = -scipy.special.logsumexp(log_prior[:, np.newaxis] - losses, axis=(1, 2)).mean()
    share = np.exp(-0.5 * ((grid[:, np.newaxis] - mean[:, np.newaxis]) / scale[:, np.newaxis]) ** 2)
    share /= share.sum(axis=1, keepdims=True)
    p = scipy.special.softmax(logits, axis=1)
    reconstruction = np.sum(p * np.sum(share * losses, axis=1), axis=1).mean()
    kl = np.log(K) + np.sum(
        p * (np.log(p) + 0.5 * (mean**2 + scale**2 - 1) - np.log(scale)), axis=1
    )
    bounds = []
    for num_samples in (1, 10):
        model.num_eval_samples = num_samples
        figures = model.bounds(images, model.posterior(tf.constant(parameters)))
        bounds.append(np.mean(figures["importance_weighted_nll"]))
    model.num_eval_samples = 300
    model.compile()
    got = evaluate(model, images)
    bounds.append(got["importance_weighted_nll"])
    assert got["reconstruction"] == pytest.approx(reconstruction, abs=0.2)
    assert got["kl"] == pytest.approx(kl.mean(), rel=1e-4)
    assert got["loss"] == pytest.approx(reconstruction + kl.mean(), abs=0.2)
    assert bounds[0] > bounds[1] > bounds[2] > exact - 0.1
    assert bounds[2] == pytest.approx(exact, abs=0.2)
    assert got["loss"] > bounds[0]


def test_confusion_matrix_is_that_of_the_last_evaluation():
    images, labels = labelled_stripes()
    model = make_model()
    model.build((None, 6, 6))
    assert "confusion" not in model.pictures(images[:2])
    assert not np.any(model.details()["confusion_matrix"])
    model, _ = trained()
    evaluate(model, images, labels)
    # Wrong labels, or hardly one would be off the diagonal; some of them missing.
    labels = np.where(np.arange(400) < 300, (labels * labels) % K, -1)
    test = evaluate(model, images, labels)
    taken_for = model.predict(images, verbose=0)["code"].argmax(axis=-1)[:, 0]
    expected = sklearn.metrics.confusion_matrix(labels[:300], taken_for[:300], labels=range(K))
    assert model.details() == {"confusion_matrix": expected.tolist()}
    assert test["accuracy"] == pytest.approx(np.trace(expected) / 300)
    pictures = model.pictures(images[:2])
    assert set(pictures) == {"inputs", "reconstructions", "codes", "prior_samples", "confusion"}
    picture = pictures["confusion"].numpy()
    assert picture.shape == (1, 8 * K, 8 * K)
    # A class without images has a row of zeros.
    shares = expected / np.maximum(expected.sum(axis=1, keepdims=True), 1)
    assert 0 in expected.sum(axis=1)
    for corner in (0, 7):
        np.testing.assert_allclose(picture[0, corner::8, corner::8], shares, rtol=1e-6)


# What the model gives.


def transparent_model():
    """A model whose decoder leaves what it is given: images of K x D pixels show w_z in row z."""
    identity = keras.Sequential([keras.layers.Dense(K * D, kernel_initializer="identity")])
    model = make_model(decoder=identity)
    model.build((None, K, D))
    return model


def classes_and_gaussians(images):
    """What a transparent model decoded: classes [B], the rows that are not one half, and w."""
    pixel_logits = scipy.special.logit(np.asarray(images, np.float64))
    shown = np.any(pixel_logits != 0, axis=2)
    np.testing.assert_array_equal(shown.sum(axis=1), 1)
    return shown.argmax(axis=1), pixel_logits[shown]


def test_predict_decodes_the_mode_and_the_mean_of_its_component():
    model = transparent_model()
    images = np.random.default_rng(7).random([9, K, D]).astype(np.float32)
    out = model.predict(images, verbose=0)
    logits, mean, _ = split(out["parameters"])
    assert out["probabilities"].shape == (9, K)
    np.testing.assert_allclose(out["probabilities"].sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(out["probabilities"], oracles.softmax(logits, axis=1), rtol=1e-4)
    category = out["probabilities"].argmax(axis=1)
    assert len(set(category)) > 1
    assert out["code"].shape == (9, 1, K)
    np.testing.assert_array_equal(out["code"][:, 0], np.eye(K)[category])
    assert out["reconstruction"].shape == (9, K, D)
    shown, gaussian = classes_and_gaussians(out["reconstruction"])
    np.testing.assert_array_equal(shown, category)
    np.testing.assert_allclose(gaussian, mean[np.arange(9), category], atol=1e-5)
    decoded = model.decode(tf.constant(out["code"]), tf.constant(gaussian, tf.float32))
    np.testing.assert_allclose(out["reconstruction"], decoded, rtol=1e-5)


def test_samples_are_of_the_prior():
    model = transparent_model()
    samples = model.sample(2000, seed=1)
    assert samples.shape == (2000, K, D)
    category, gaussian = classes_and_gaussians(samples)
    # 10 numbers within 4 standard errors: fails for 1 seed in 1500.
    shares = np.eye(K)[category]
    oracles.assert_mean_is(shares, np.full(K, 1 / K))
    oracles.assert_mean_is(gaussian, np.zeros(D))
    oracles.assert_mean_is(gaussian**2, np.ones(D))
    np.testing.assert_array_equal(samples, model.sample(2000, seed=1))
    assert np.any(samples != model.sample(2000, seed=2))
    assert np.any(model.sample(5) != model.sample(5))


def test_class_conditional_samples_share_a_draw_along_a_row():
    model = transparent_model()
    images = model.decoded_codes()
    assert images.shape == (K * K, K, D)
    category, gaussian = classes_and_gaussians(images)
    np.testing.assert_array_equal(category.reshape(K, K), np.tile(np.arange(K), [K, 1]))
    rows = gaussian.reshape(K, K, D)
    for column in range(1, K):
        np.testing.assert_allclose(rows[:, column], rows[:, 0], atol=1e-5)
    assert len(np.unique(rows[:, 0].round(3), axis=0)) == K
    np.testing.assert_array_equal(images, model.decoded_codes())


# Saving.


def test_saved_model_in_a_new_process(tmp_path):
    model, _ = trained()
    images, labels = (part[:40] for part in labelled_stripes())
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    said = in_new_process(
        tmp_path,
        f"""
        import json, keras, numpy as np
        import tf_direct_opt
        data = np.load(r"{tmp_path}/data.npz")
        images, labels = data["images"], data["labels"]
        model = keras.saving.load_model(r"{tmp_path}/model.keras", safe_mode=True)
        out = model.predict(images, verbose=0)
        print(json.dumps({{
            "parameters": out["parameters"].tolist(),
            "reconstruction": out["reconstruction"].tolist(),
            "test": model.evaluate(images, labels, verbose=0, return_dict=True),
            "confusion": model.details(),
        }}))
    """,
    )
    out = model.predict(images, verbose=0)
    np.testing.assert_allclose(said["parameters"], out["parameters"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(said["reconstruction"], out["reconstruction"], rtol=1e-5)
    expected = model.evaluate(images, labels, verbose=0, return_dict=True)
    assert said["test"] == pytest.approx(expected, rel=1e-5)
    assert said["confusion"] == model.details()


def test_config_round_trip():
    model = make_model(
        estimator=estimators.GumbelSoftmax(temperature=0.5, seed=3),
        epsilon=None,
        label_loss="cross_entropy",
        label_epsilon=0.2,
        label_cost=3.0,
        unlabelled_weight=schedules.two_phase(0.0, 1.0, 7),
        generative=False,
        kl_weight=0.5,
        num_eval_samples=4,
        encoder=keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(K * (1 + 2 * D))]),
    )
    for built in (False, True):
        if built:
            model.build((None, 6, 6))
        again = MixtureVAE.from_config(model.get_config())
        if built:
            again.build((None, 6, 6))
        assert again.get_config() == model.get_config()
    assert isinstance(again.estimator, estimators.GumbelSoftmax)
    assert (again.estimator.temperature, again.estimator.seeds.seed) == (0.5, 3)
    assert [float(again.unlabelled_weight(step)) for step in (6, 7)] == [0.0, 1.0]
    assert (again.label_cost, again.label_epsilon, again.generative) == (3.0, 0.2, False)
    assert (again.num_categories, again.gaussian_dim, again.num_eval_samples) == (K, D, 4)


def test_the_gaussians_have_noise_of_their_own():
    model = make_model(seed=7)
    assert model.get_config()["seed"] == model.estimator.seeds.seed == 7
    assert model.seeds.seed != 7
    again = MixtureVAE.from_config(model.get_config())
    assert again.seeds.seed == model.seeds.seed
    assert MixtureVAE().seeds.seed is None


# Bad input.


def test_labels_out_of_range_are_refused():
    images, labels = (part[:20] for part in labelled_stripes())
    for run_eagerly, uses in ((True, ["train_on_batch"]), (False, ["test_on_batch"])):
        model = make_model({"jit_compile": False, "run_eagerly": run_eagerly})
        for use in (getattr(model, name) for name in uses):
            for bad in (K, -2):
                labels[3] = bad
                with pytest.raises(
                    tf.errors.InvalidArgumentError, match=r"Expected labels from -1 .none. to 3"
                ):
                    use(images, labels)


@pytest.mark.slow
def test_compiled_by_xla_it_trains_as_well_and_labels_out_of_range_are_nan():
    model = make_model({"jit_compile": True})
    images, labels = labelled_stripes()[0], few_labels()

    def loss_of(number, labels):
        part = slice(50 * (number % 8), 50 * (number % 8) + 50)
        model.reset_metrics()
        return model.train_on_batch(images[part], labels[part], return_dict=True)["loss"]

    losses = [loss_of(number, labels) for number in range(120)]
    assert np.mean(losses[-8:]) < np.mean(losses[:8]) - 3
    weights = model.get_weights()
    for bad in (K, -2):
        model.set_weights(weights)  # Those that the gradient of a NaN has not spoilt.
        wrong = labels.copy()
        wrong[3] = bad
        assert np.isnan(loss_of(0, wrong))


def test_bad_arguments_are_refused():
    for config, message in (
        ({"num_categories": 1}, "Expected `num_categories` to be an integer of at least 2"),
        ({"gaussian_dim": 0}, "Expected `gaussian_dim` to be an integer of at least 1; received 0"),
        ({"gaussian_dim": 2.5}, "Expected `gaussian_dim` .* received 2.5"),
        ({"num_eval_samples": 0}, "Expected `num_eval_samples`"),
        ({"label_loss": "hinge"}, "Expected `label_loss` in .* received 'hinge'"),
        ({"label_epsilon": 0}, "Expected `label_epsilon` to be greater than 0; received 0"),
        (
            {"label_epsilon": float("nan")},
            "Expected `label_epsilon` to be greater than 0; received nan",
        ),
        ({"label_cost": -1}, "Expected `label_cost` to be greater than 0; received -1"),
        ({"unlabelled_weight": -0.5}, "Expected `unlabelled_weight` to be at least 0"),
        ({"kl_weight": -0.1}, "Expected `kl_weight` to be at least 0"),
        ({"epsilon": 0.0}, "Expected `epsilon` to be greater than 0"),
        ({"estimator": "reinforce"}, "Expected `estimator` to be one of"),
        ({"estimator": estimators.Exact(), "epsilon": 0.3}, "Expected no further arguments"),
    ):
        with pytest.raises(ValueError, match=message):
            make_model(**config)


def test_networks_that_do_not_fit_are_refused():
    for name, units, expected in (("encoder", 5, K * (1 + 2 * D)), ("decoder", 35, 36)):
        network = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(units)], name=name)
        message = f"Expected {expected} outputs an example from `{name}`; received .*{units}"
        with pytest.raises(ValueError, match=message):
            make_model(**{name: network}).build((None, 6, 6))
