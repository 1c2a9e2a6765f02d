import keras
import numpy as np
import oracles
import pytest
import scipy.special
import tensorflow as tf
from posterior_contract import all_bits
from test_discrete_vae import enumerated_evaluation, in_new_process, stripes

from tf_direct_opt import schedules
from tf_direct_opt.models import DiscreteVAE, StructuredVAE, structured_vae


def brute_force(h):
    """log Z, p, KL to uniform and mean statistics of potentials [d], in float64."""
    n = int(np.sqrt(2 * len(h)))
    _, statistics = all_bits(n)
    scores = statistics @ h.astype(np.float64)
    log_partition = scipy.special.logsumexp(scores)
    log_p = scores - log_partition
    p = np.exp(log_p)
    return log_partition, p, p @ log_p + n * np.log(2), p @ statistics


def make_model(compile_options=None, **config):
    defaults = {"num_variables": 4, "epsilon": 0.3, "kl_weight": 1.0, "hidden_units": 16}
    model = StructuredVAE(**{**defaults, "seed": 0, **config})
    model.compile(keras.optimizers.Adam(1e-2), **(compile_options or {}))
    return model


def fit(model, epochs=3):
    if not model.built:  # Keras traces the first step of an unbuilt model twice.
        model.build((None, 6, 6))
    return model.fit(stripes(), epochs=epochs, batch_size=50, verbose=0, shuffle=False).history


def evaluate(model, images=None):
    images = stripes() if images is None else images
    return model.evaluate(images, batch_size=200, verbose=0, return_dict=True)


def enumerated_losses(model, images):
    """f of every image and configuration, [images, 2^n], in float64."""
    codes = oracles.all_codes(model.num_variables, 2).astype(np.float32)
    pixels = model.decoder(codes.reshape(len(codes), -1)).numpy().astype(np.float64)
    likelihood = scipy.special.expit(pixels)
    flat = images.reshape(len(images), 1, -1)
    return -np.log(np.where(flat == 1, likelihood, 1 - likelihood)).sum(axis=-1)


@pytest.mark.parametrize(
    "config",
    [
        {"perturbation": "unary"},
        {"perturbation": "all"},
        {"structure": "none"},
        {"nonnegative": True},
        {"averaged": True, "epsilon": None},
    ],
)
@pytest.mark.slow
def test_every_posterior_trains(config):
    model = make_model(**config)
    fit(model, epochs=20)
    assert evaluate(model)["loss"] < 22


@pytest.mark.slow
def test_compiled_by_xla_it_trains_as_well():
    losses = fit(make_model({"jit_compile": True}), epochs=10)["loss"]
    assert losses[-1] < losses[0] - 3


@pytest.mark.slow
def test_mixed_precision_trains():
    keras.config.set_dtype_policy("mixed_float16")
    model = make_model()
    losses = fit(model, epochs=10)["loss"]
    assert losses[-1] < losses[0] - 3
    assert np.isfinite(evaluate(model)["loss"])


@pytest.fixture(scope="module")
def trained():
    """A model, and the history of its training."""
    model = make_model()
    return model, fit(model, epochs=20)


def test_fit_and_evaluate_report_what_the_documentation_says(trained):
    model, history = trained
    # The entropy of the average image, 25 nats, is what a model without a code reaches.
    assert evaluate(model)["loss"] < 22
    assert set(history) == {
        "loss", "reconstruction", "kl", "kl_weight", "code_perplexity", "epsilon",
        "first_probability",
    }  # fmt: skip
    assert set(evaluate(model)) == {
        "loss", "reconstruction", "kl", "entropy", "unary_kl", "perturbed_reconstruction",
        "importance_weighted_nll", "negative_log_likelihood", "code_perplexity",
        "bits_per_dimension",
    }  # fmt: skip


def test_evaluate_is_exact_by_enumeration(trained):
    model, _ = trained
    images = stripes(200)
    got = evaluate(model, images)
    losses = enumerated_losses(model, images)
    h = model(images)["potentials"].numpy()
    _, p, kl, _ = map(np.array, zip(*map(brute_force, h), strict=True))
    unary = scipy.special.expit(h[:, :4].astype(np.float64))
    unary_entropy = scipy.special.entr(unary) + scipy.special.entr(1 - unary)
    expected = {
        "reconstruction": np.mean(np.sum(p * losses, axis=1)),
        "kl": np.mean(kl),
        "entropy": np.mean(4 * np.log(2) - kl),
        "unary_kl": np.mean(4 * np.log(2) - unary_entropy.sum(axis=1)),
        "negative_log_likelihood": np.mean(
            4 * np.log(2) - scipy.special.logsumexp(-losses, axis=1)
        ),
    }
    expected["loss"] = expected["reconstruction"] + expected["kl"]
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, rel=1e-4), name
    # A bound in the mean over draws.
    assert got["negative_log_likelihood"] <= got["importance_weighted_nll"] + 0.05
    assert got["importance_weighted_nll"] < got["loss"]
    assert got == evaluate(model, images)


@pytest.mark.slow
def test_the_importance_weighted_bound_is_a_bound_and_tightens():
    # 400 images: its standard error, of the noise alone, is below 0.05 nats from 10 draws on.
    model = make_model(num_eval_samples=1)
    fit(model, epochs=5)
    bounds = []
    for num_samples in (1, 10, 1000):
        model.num_eval_samples = num_samples
        model.compile(keras.optimizers.Adam(1e-2))
        result = evaluate(model)
        bounds.append(result["importance_weighted_nll"])
    exact = result["negative_log_likelihood"]
    assert bounds[0] > bounds[1] > exact - 0.1
    assert bounds[2] == pytest.approx(exact, abs=0.1)


@pytest.mark.slow
def test_beyond_enumeration_of_the_codes_the_bounds_are_estimated(monkeypatch):
    # The draws of 400 images share nothing: with 500 each the standard error is below 0.05 nats.
    model = make_model(num_eval_samples=500)
    fit(model, epochs=3)
    exact = evaluate(model)
    monkeypatch.setattr(structured_vae, "MAX_DECODED_VARIABLES", 3)
    sampling = make_model(num_eval_samples=500)
    sampling.build((None, 6, 6))
    for to, source in zip(sampling.trainable_weights, model.trainable_weights, strict=True):
        to.assign(source)
    estimated = evaluate(sampling)
    assert "negative_log_likelihood" not in estimated
    assert estimated["loss"] == pytest.approx(exact["loss"], abs=0.2)
    assert estimated["kl"] == pytest.approx(exact["kl"], rel=1e-5)
    assert estimated["importance_weighted_nll"] == pytest.approx(
        exact["importance_weighted_nll"], rel=1e-4
    )


@pytest.mark.slow
def test_without_couplings_it_is_the_discrete_vae():
    discrete = DiscreteVAE(4, 2, epsilon=0.3, kl_weight=1.0, hidden_units=16, seed=0)
    discrete.compile(keras.optimizers.Adam(1e-2))
    fit(discrete, epochs=5)
    logits = discrete(stripes())["logits"].numpy()
    h = logits[..., 1] - logits[..., 0]
    independent = discrete.posterior(tf.constant(logits))
    expected = enumerated_evaluation(discrete, stripes())
    for structure, padding in (("none", 0), ("pairwise", 6)):
        model = make_model(structure=structure, decoder=discrete.decoder)
        model.build((None, 6, 6))
        posterior = model.posterior(tf.constant(np.pad(h, [(0, 0), (0, padding)])))
        np.testing.assert_allclose(
            posterior.kl_to_uniform(), independent.kl_to_uniform(), atol=1e-4
        )
        np.testing.assert_allclose(posterior.marginals(), independent.marginals(), atol=1e-5)
        figures = model.bounds(posterior, model.make_loss_fn(stripes()))
        reconstruction = np.mean(figures["reconstruction"])
        assert reconstruction == pytest.approx(expected["reconstruction"], rel=1e-4)
        likelihood = np.mean(figures["negative_log_likelihood"])
        assert likelihood == pytest.approx(expected["likelihood"], rel=1e-4)
        np.testing.assert_array_equal(posterior.mode(), independent.mode())


@pytest.mark.slow
def test_more_variables_than_can_be_enumerated():
    for config in ({"structure": "none"}, {"solver": "milp"}):
        model = make_model(num_variables=21, num_eval_samples=5, **config)
        model.build((None, 6, 6))
        images = stripes(4)
        assert np.isfinite(model.train_on_batch(images, return_dict=True)["loss"])
        got = model.evaluate(images, verbose=0, return_dict=True)
        assert got["kl"] == pytest.approx(got["unary_kl"], rel=1e-5)
        assert "negative_log_likelihood" not in got


def test_the_perturbed_draw_of_an_evaluation_is_none_of_the_samples():
    images = np.random.default_rng(0).integers(0, 2, [30, 6, 6]).astype(np.float32)
    model = make_model(
        num_variables=21, structure="none", perturbation="unary", num_eval_samples=1, hidden_units=4
    )
    got = model.evaluate(images, verbose=0, return_dict=True)
    assert "negative_log_likelihood" not in got
    assert got["perturbed_reconstruction"] != pytest.approx(got["reconstruction"], abs=1e-4)


def test_nonnegative_couplings_are():
    model = make_model(nonnegative=True)
    assert np.all(model(stripes(9))["potentials"][:, 4:] > 0)
    assert np.any(make_model()(stripes(9))["potentials"][:, 4:] < 0)


def test_predict_and_sample(trained):
    model, _ = trained
    out = model.predict(stripes(7), verbose=0)
    assert out["probabilities"].shape == out["code"].shape == (7, 4, 2)
    means = [brute_force(h)[3][:4] for h in out["potentials"]]
    np.testing.assert_allclose(out["probabilities"][..., 1], means, atol=1e-5)
    np.testing.assert_allclose(out["reconstruction"], model.decode(out["code"]), rtol=1e-5)
    assert model.sample(50, seed=1).shape == (50, 6, 6)


def test_saved_model_in_a_new_process(tmp_path):
    model = make_model(
        epsilon=schedules.two_phase(1.0, 0.1, 9),
        perturbation="configurations",
        num_candidates=5,
        nonnegative=True,
    )
    model.build((None, 6, 6))
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", stripes(40))
    said = in_new_process(
        tmp_path,
        f"""
        import json, keras, numpy as np
        import tf_direct_opt
        images = np.load(r"{tmp_path}/images.npy")
        model = keras.saving.load_model(r"{tmp_path}/model.keras", safe_mode=True)
        print(json.dumps({{
            "reconstruction": model(images)["reconstruction"].numpy().tolist(),
            "test": model.evaluate(images, verbose=0, return_dict=True),
            "config": repr(model.get_config()),
        }}))
    """,
    )
    out = model(stripes(40))
    np.testing.assert_allclose(said["reconstruction"], out["reconstruction"], rtol=1e-5)
    expected = model.evaluate(stripes(40), verbose=0, return_dict=True)
    assert said["test"] == pytest.approx(expected, rel=1e-5)
    assert "'perturbation': 'configurations'" in said["config"]
    assert "'num_candidates': 5" in said["config"]
    assert "'nonnegative': True" in said["config"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"structure": "tree"}, "Expected `structure` in"),
        ({"num_variables": 0}, "Expected `num_variables` to be an integer of at least 1"),
        ({"num_variables": 21}, "integer from 1 to 20"),
        ({"solver": "maxflow", "nonnegative": False}, "Expected `nonnegative` couplings"),
        ({"solver": "milp", "perturbation": "configurations"}, "Expected solver='pairwise_binary'"),
        ({"epsilon": -1.0}, "Expected `epsilon`"),
        ({"averaged": True, "perturbation": "unary"}, "Expected perturbation='configurations'"),
        ({"encoder": keras.layers.Dense(3, name="encoder")}, "Expected 10 outputs an example"),
    ],
)
def test_bad_arguments_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        make_model(**config).build((None, 36))
