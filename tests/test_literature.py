"""The settings of other papers: ReinMax's MNIST-VAE and the polynomial toy problem."""

import csv
import json

import numpy as np
import programs
import pytest

# Programs define flags of the same names: each is imported in a process of its own.
PARTS_OF_REINMAX_VAE = """
import json
import keras, reinmax_vae
keras.utils.set_random_seed(0)
network = reinmax_vae.network([400, 300, 50], "network")
network.build((None, 400))
print(json.dumps({
    "weights": [w.tolist() for layer in network.layers for w in layer.get_weights()],
    "activations": [layer.activation.__name__ for layer in network.layers],
    "values": [reinmax_vae.number_or_text(text) for text in ("3", "0.5", "logits", "true")],
}))
"""


def test_network_starts_as_one_of_pytorch_and_arguments_are_numbers_or_words(tmp_path):
    script = tmp_path / "script.py"
    path = str(programs.ROOT / "experiments")
    script.write_text(f"import sys\nsys.path.insert(0, {path!r})\n{PARTS_OF_REINMAX_VAE}")
    found = programs.train(script)
    # Uniform up to the root of one over the inputs, weights and biases; a mean of n entries has a
    # standard error of limit / sqrt(3 n): 4 of them for 4 figures fail for 1 seed in 4,000.
    for values, fan_in in zip(found["weights"], (400, 400, 300, 300), strict=True):
        values, limit = np.array(values), fan_in**-0.5
        assert 0.9 * limit < np.abs(values).max() <= np.float32(limit)
        assert abs(values.mean()) < 4 * limit / np.sqrt(3 * values.size)
    assert found["activations"] == ["relu", "linear"]
    assert found["values"] == [3, 0.5, "logits", True]


@pytest.mark.slow
def test_toy_descends_and_is_not_run_twice(tmp_path):
    arguments = ("experiments/polynomial_toy.py", "--steps=400", "--estimators=reinmax")
    outputs = []
    for _ in range(2):
        code, out, err = programs.run(*arguments, f"--output_dir={tmp_path}")
        assert code == 0, err
        outputs.append(out)
    assert len(json.loads(outputs[0])) == 3
    assert outputs[1] == ""
    with (tmp_path / "polynomial_toy.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["p"]) for row in rows] == [1.5, 2.0, 3.0]
    for row in rows:
        # The share of ones begins at a half; Adam's 1e-3 a step takes the logits 0.8 apart.
        assert 0.6 < float(row["left"]) < 0.95
        p, share = float(row["p"]), float(row["left"]) / 2
        expected = share * 0.55**p + (1 - share) * 0.45**p
        assert float(row["expected_loss"]) == pytest.approx(expected, rel=0.01)
        assert row["evaluations"] == "1"
