"""The benchmarks run, on little data; what they measure is measured by hand."""

import json

from test_train_vae import run


def test_epoch_seconds():
    code, out, err = run(
        "--num_categories=10,20",
        "--num_images=600",
        "--epochs=2",
        program=("benchmarks/epoch_seconds.py",),
    )
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["num_categories"] for row in rows] == [10, 20]
    for row in rows:
        assert 0 < row["ratio_min"] <= row["ratio"] <= row["ratio_max"]
        assert row["vae_seconds"] > 0
        assert row["autoencoder_seconds"] > 0
