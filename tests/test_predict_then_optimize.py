import csv
import json

import numpy as np
import programs
import pytest

PROGRAM = "examples/predict_then_optimize.py"

# The program's flags are its own: it is imported in a process of its own.
DATA = """
import sys
sys.path.insert(0, "examples")
import numpy as np
import predict_then_optimize
for problem, size in (("path", 5), ("knapsack", 32), ("assignment", 6)):
    data = predict_then_optimize.make_data(problem, size, 4, 0.5, 2000)
    np.savez(f"{sys.argv[1]}/{problem}.npz", *data[1:])
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Features, costs and mean costs of every problem."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "make.py").write_text(DATA)
    code, _, error = programs.Program(folder / "make.py", [folder]).wait()
    assert code == 0, error
    return lambda problem: np.load(folder / f"{problem}.npz").values()


def test_the_data_are_those_of_the_published_setting(data):
    # Written out example by example, as the field's generator draws them.
    features, costs, mean = data("path")
    random = np.random.RandomState(42)
    coefficients = random.binomial(1, 0.5, (40, 5))
    np.testing.assert_array_equal(features, random.normal(0, 1, (2000, 5)))
    for x, cost, without_noise in zip(features, costs, mean, strict=True):
        clean = ((coefficients @ x / np.sqrt(5) + 3) ** 4 + 1) / 3.5**4
        np.testing.assert_allclose(without_noise, clean)
        np.testing.assert_allclose(cost, clean * random.uniform(0.5, 1.5, 40))


def test_noise_has_mean_one(data):
    # 2000 examples: the mean of the factors has a standard error below 0.002; the whole numbers
    # of the knapsack, in fives, are above their values by half a fifth.
    for problem, shape, above in (
        ("path", (40,), 0.0),
        ("knapsack", (32,), 0.1),
        ("assignment", (6, 6), 0.0),
    ):
        _, costs, mean = data(problem)
        assert costs.shape == mean.shape == (2000, *shape)
        assert np.mean(costs - above) == pytest.approx(np.mean(mean), rel=0.01)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--method=direct"],
        pytest.param(
            ["--method=relative", "--problem=assignment", "--size=4"], marks=pytest.mark.slow
        ),
        pytest.param(
            ["--method=spo_plus", "--problem=knapsack", "--size=12"], marks=pytest.mark.slow
        ),
        pytest.param(["--method=imle", "--num_samples=2"], marks=pytest.mark.slow),
        pytest.param(["--method=fenchel_young"], marks=pytest.mark.slow),
        pytest.param(["--method=blackbox"], marks=pytest.mark.slow),
        pytest.param(["--method=two_stage"], marks=pytest.mark.slow),
    ],
    ids=lambda arguments: arguments[0],
)
def test_program_learns_and_writes_its_result(tmp_path, arguments):
    flags = ["--num_examples=400", "--epochs=5", "--learning_rate=0.05", "--seeds=3,4"]
    result = programs.train(PROGRAM, *flags, *arguments, f"--output_dir={tmp_path}")
    assert result == json.loads((tmp_path / "result.json").read_text())
    names = {"regret.csv", "regret.png", "result.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    epochs = list(csv.DictReader((tmp_path / "regret.csv").read_text().splitlines()))
    last = [float(epochs[-1][f"seed_{seed}"]) for seed in (3, 4)]
    np.testing.assert_allclose(result["test_regrets"], last, atol=1e-3)
    assert result["test_regret"] == pytest.approx(np.mean(last), abs=2e-3)
    assert result["test_regret_sd"] == pytest.approx(np.std(last, ddof=1), abs=2e-3)
    assert len(epochs) == 5
    assert 0 < result["floor"] < result["test_regret"] < 0.75 * float(epochs[0]["seed_3"]) + 5
