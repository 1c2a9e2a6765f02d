"""The benchmarks run, on little data; what they measure is measured by hand."""

import json

import mixture_em
import numpy as np
import pytest
import tensorflow as tf
from programs import run


def test_epoch_seconds():
    flags = ("--num_categories=10", "--num_images=600", "--epochs=2")
    code, out, err = run("benchmarks/epoch_seconds.py", *flags)
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["num_categories"] for row in rows] == [10]
    for row in rows:
        assert 0 < row["ratio_min"] <= row["ratio"] <= row["ratio_max"]
        assert row["vae_seconds"] > 0
        assert row["ratio_to_products"] > 0
        assert row["autoencoder_seconds"] > 0


def test_em_never_gets_worse_and_finds_a_mixture_it_drew():
    # 4000 images of 3 Bernoulli vectors of 30 pixels; their entropy is what EM has to reach.
    generator = np.random.default_rng(0)
    kinds = generator.uniform(0.05, 0.95, [3, 30])
    images = generator.random([4000, 30]) < kinds[generator.integers(0, 3, 4000)]
    images = tf.constant(images, tf.float32)
    truth = tf.constant(np.log(kinds) - np.log1p(-kinds), tf.float32)
    found = mixture_em.fit(images, 3, iterations=60, starts=3)
    # 90 parameters fitted to 4000 images gain about 45 / 4000 nats an image.
    assert float(mixture_em.nll(images, found)) == pytest.approx(
        float(mixture_em.nll(images, truth)), abs=0.03
    )
    early = mixture_em.fit(images, 3, iterations=1, starts=1)
    costs = [float(mixture_em.nll(images, early))]
    for _ in range(20):
        early = mixture_em.em_step(images, early)
        costs.append(float(mixture_em.nll(images, early)))
    assert np.all(np.diff(costs) < 1e-3)


def test_em_limit_program():
    code, out, err = run("benchmarks/em_limit.py", "--num_categories=10")
    assert code == 0, err
    row = json.loads(out)
    # One Bernoulli vector costs 28.6 nats an image of digits.
    assert 17 < row["train_nll"] < row["test_nll"] < 23


@pytest.mark.slow
def test_candidates_growth():
    code, out, err = run(
        "benchmarks/candidates_growth.py", "--posteriors=chain/3", "--estimators=2,plain/2",
        "--batch=4", "--repeats=1",
    )  # fmt: skip
    assert code == 0, err
    row = json.loads(out)
    assert row["posterior"] == "chain/3"
    assert row["2_ms"] > 0
    assert row["plain/2_ratio"] == 1.0


@pytest.mark.slow
def test_workers_seconds():
    flags = ("--dataset=digits", "--workers=2", "--batch_sizes=100", "--epochs=2")
    code, out, err = run("benchmarks/workers_seconds.py", *flags)
    assert code == 0, err
    row = json.loads(out)
    assert min(row["alone_seconds"], row["workers_2_speedup"]) > 0


def test_step_growth():
    code, out, err = run(
        "benchmarks/step_growth.py", "--num_variables=3", "--num_categories=2", "--batches=4",
        "--sides=5", "--estimators=direct/2,gumbel_softmax", "--repeats=1",
    )  # fmt: skip
    assert code == 0, err
    row = json.loads(out)
    assert row["direct/2_ms"] > 0
    assert row["gumbel_softmax_ratio"] == 1.0


def test_structured_step():
    flags = ("--n=3", "--steps=2", "--batch_size=10")
    code, out, err = run("benchmarks/structured_step.py", *flags)
    assert code == 0, err
    row = json.loads(out)
    assert row["n"] == 3
    assert 0 < row["min_ms"] <= row["median_ms"] <= row["max_ms"]
    assert row["peak_rss_mib"] < 4096


def test_perturbation_law():
    from perturbation_law import compare

    # Without couplings noise on the unaries draws from the Gibbs distribution itself.
    rows = [compare(4, scale, draws=20_000, instances=3) for scale in (0.0, 1.0)]
    assert rows[0]["total_variation"] < 2 * rows[0]["noise_floor"]
    assert rows[1]["total_variation"] > 3 * rows[1]["noise_floor"]
