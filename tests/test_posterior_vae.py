import json

import keras
import numpy as np
import programs
import pytest
import scipy.special
import tensorflow as tf
from test_structured_vae import stripes

from tf_direct_opt import estimators, posteriors
from tf_direct_opt.models import PosteriorVAE

FAMILIES = (
    posteriors.get("chain", num_variables=3, num_categories=3),
    posteriors.get("k_subset", num_variables=6, k=2),
    posteriors.get("categorical", num_variables=2, num_categories=4),
    posteriors.get("pairwise_binary", num_variables=4),
)


@pytest.mark.parametrize(
    "family",
    # Two new posteriors; the others have models of their own.
    [FAMILIES[0], *(pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES[1:])],
    ids=lambda family: family.name,
)
def test_trained_by_candidates_it_fits_and_says_so_exactly(family, tmp_path):
    model = PosteriorVAE(family, kl_weight=1.0, hidden_units=16, seed=0)
    model.compile(keras.optimizers.Adam(3e-2))
    images = stripes(80)
    model.build((None, *images.shape[1:]))
    whole = {"batch_size": 80, "verbose": 0}
    before = model.evaluate(images, **whole, return_dict=True)
    model.fit(images, epochs=8, batch_size=20, verbose=0)
    got = model.evaluate(images, **whole, return_dict=True)
    assert got["loss"] < before["loss"] - 2.0
    # By hand: every configuration, decoded for every image.
    out = model(images)
    posterior = model.posterior(tf.constant(out[family.kind.parameter_name]))
    every = posterior.configurations(tf.range(posterior.num_configurations))[tf.newaxis]
    losses = model.make_loss_fn(images)(every).numpy().astype(np.float64)
    log_q = posterior.log_prob(every).numpy().astype(np.float64)
    log_prior = -np.log(posterior.num_configurations)
    elbo = np.sum(np.exp(log_q) * (losses + log_q - log_prior), axis=1).mean()
    likelihood = -scipy.special.logsumexp(log_prior - losses, axis=1).mean()
    assert got["loss"] == pytest.approx(elbo, rel=1e-4)
    assert got["negative_log_likelihood"] == pytest.approx(likelihood, rel=1e-4)
    assert likelihood < got["importance_weighted_nll"] + 0.1 < elbo + 0.2
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.evaluate(images, **whole, return_dict=True) == pytest.approx(got, rel=1e-5)
    assert model.sample(5, seed=1).shape == (5, 6, 6)


def test_draws_of_the_prior_are_configurations():
    model = PosteriorVAE(FAMILIES[1], decoder=keras.Sequential([keras.layers.Dense(36)]))
    model.build((None, 6, 6))
    decoded = []
    model.decode = lambda code: decoded.append(code) or code
    model.sample(50, seed=1)
    np.testing.assert_array_equal(np.sum(decoded[0][..., 1], axis=1), np.full(50, 2))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"posterior": "gibbs"}, "Expected `posterior` to be one of"),
        ({"estimator": "rebar"}, r"one of \['candidates'\], which take any posterior"),
        ({"estimator": estimators.Candidates(FAMILIES[1])}, "Expected an estimator for"),
    ],
)
def test_bad_arguments_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        PosteriorVAE(**{"posterior": FAMILIES[0], **config})


@pytest.mark.parametrize(
    ("flags", "count"),
    [
        (["--posterior=k_subset", "--subset=2"], 21),
        pytest.param(["--posterior=categorical", "--k=2"], 128, marks=pytest.mark.slow),
        pytest.param(["--posterior=chain", "--k=2"], 128, marks=pytest.mark.slow),
    ],
    ids=["k_subset", "categorical", "chain"],
)
def test_the_program_of_all_families(flags, count, tmp_path):
    flags += ["--num_variables=7", "--epochs=1", "--hidden_units=10", "--verbose=0"]
    test = programs.train("experiments/posterior_vae.py", *flags, f"--output_dir={tmp_path}")[
        "test"
    ]
    # KL to the uniform distribution.
    assert test["kl"] + test["entropy"] == pytest.approx(np.log(count), abs=1e-3)
    assert test["negative_log_likelihood"] <= test["importance_weighted_nll"] + 0.5
    assert test["importance_weighted_nll"] <= test["negative_elbo"] + 0.5
    pixels = tf.io.decode_png((tmp_path / "reconstructions.png").read_bytes())
    assert pixels.shape == (6 * 9 * 2, 8 * 9 * 2, 1)  # 24 digits, each above what is made of it.
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["schedules"]["kl_weight"] == 1.0
