"""Whether half precision costs nats: models and likelihoods on digits under every dtype policy.

    python benchmarks/mixed_precision.py --output=benchmarks/results/mixed_precision.csv

Trains every model with every likelihood on the 8x8 digits, binary for the Bernoulli and grey, k /
16, for the others, three seeds each. Prints, and writes, a line for each: the test -ELBO, nats, the
least, mean and greatest of float32, the means of the half precisions, and whether these are within
the spread: no farther from the mean of float32 than its greatest is from its least.
"""

import csv
import functools
import os
import statistics
import sys

import keras
import numpy as np
import sklearn.datasets
from absl import flags

import tf_direct_opt as tdo
from tf_direct_opt import files
from tf_direct_opt.runs import command_line

FLAGS = flags.FLAGS
MODELS = ("discrete", "structured", "mixture")
LIKELIHOODS = ("bernoulli", "gaussian", "discretised_logistic", "categorical")
HALVES = ("mixed_float16", "mixed_bfloat16")
SEEDS = (0, 1, 2)
flags.DEFINE_list("models", list(MODELS), "Which models.")
flags.DEFINE_list("likelihoods", list(LIKELIHOODS), "Which likelihoods.")
flags.DEFINE_integer("epochs", 10, "Epochs of 14 steps.", lower_bound=1)
flags.DEFINE_string("output", None, "CSV file for what is printed.")


@functools.cache
def digits() -> np.ndarray:
    """1797 images [n, 8, 8], k / 16, in an order that is none of the writers'."""
    images = sklearn.datasets.load_digits().images / 16
    return np.random.default_rng(0).permutation(images.astype(np.float32))


def make_model(name: str, likelihood: str, seed: int):
    """The model of that name, with 17 levels where the likelihood has levels."""
    if likelihood == "discretised_logistic":
        likelihood = tdo.likelihoods.DiscretisedLogistic(levels=17)
    elif likelihood == "categorical":
        likelihood = tdo.likelihoods.Categorical(17)
    shared = {"hidden_units": 100, "likelihood": likelihood, "seed": seed}
    if name == "discrete":
        return tdo.models.DiscreteVAE(4, 8, num_eval_samples=20, **shared)
    if name == "structured":
        return tdo.models.StructuredVAE(
            8, num_candidates=8, averaged=False, num_eval_samples=20, **shared
        )
    return tdo.models.MixtureVAE(10, 8, **shared)


def negative_elbo(name: str, likelihood: str, policy: str, seed: int, epochs: int) -> float:
    """The test -ELBO, nats, after a training."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(policy)
    images = np.round(digits()) if likelihood == "bernoulli" else digits()
    model = make_model(name, likelihood, seed)
    model.compile(keras.optimizers.Adam(3e-3), steps_per_execution=14, jit_compile=False)
    model.build((None, 8, 8))
    model.fit(images[:1400], batch_size=100, epochs=epochs, verbose=0)
    return model.evaluate(images[1437:], batch_size=360, verbose=0, return_dict=True)["loss"]


def compare(name: str, likelihood: str, epochs: int) -> dict:
    """The figures of a model and a likelihood under every policy."""
    figures = {
        policy: [negative_elbo(name, likelihood, policy, seed, epochs) for seed in SEEDS]
        for policy in ("float32", *HALVES)
    }
    single = figures.pop("float32")
    half = {policy: statistics.mean(of_seeds) for policy, of_seeds in figures.items()}
    mean, spread = statistics.mean(single), max(single) - min(single)
    return {
        "model": name,
        "likelihood": likelihood,
        "float32_least": round(min(single), 2),
        "float32_mean": round(mean, 2),
        "float32_greatest": round(max(single), 2),
        **{policy: round(figure, 2) for policy, figure in half.items()},
        "within_spread": all(abs(figure - mean) <= spread for figure in half.values()),
    }


def main():
    models = command_line.choices("models", MODELS)
    likelihoods = command_line.choices("likelihoods", LIKELIHOODS)
    if FLAGS.output is not None:
        path = files.expanded(FLAGS.output)
        if path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
            raise ValueError(
                "Expected --output to be a file in a folder that can be written; received "
                f"{FLAGS.output!r}. Please make the folder, or give another one."
            )
    rows = []
    for name in models:
        for likelihood in likelihoods:
            rows.append(compare(name, likelihood, FLAGS.epochs))
            if len(rows) == 1:
                writer = csv.DictWriter(sys.stdout, rows[0])
                writer.writeheader()
            writer.writerow(rows[-1])
            sys.stdout.flush()
    if FLAGS.output is not None:
        files.write_table(path, rows[0], rows)


if __name__ == "__main__":
    command_line.run(main)
