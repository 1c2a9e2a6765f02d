"""How far perturb-and-MAP is from the Gibbs distribution of the same potentials.

    python benchmarks/perturbation_law.py --n=4,6,8 --scales=0,0.5,1,2

Noise on the unary potentials draws from a law of unknown density, which `StructuredVAE` trains
with perturbation="unary" while its bounds are those of the Gibbs distribution. For standard normal
unaries and couplings of a standard deviation `scale` this counts both laws' draws and prints the
total variation between perturb-and-MAP and Gibbs, averaged over instances, beside what as many
exact draws show by chance (`noise_floor`), and the KL from the counted law to the Gibbs one.
"""

import json

import numpy as np
import tensorflow as tf
from absl import flags

from tf_direct_opt.estimators import Flips
from tf_direct_opt.runs import command_line

flags.DEFINE_list("n", ["4", "6", "8"], "Binary variables.")
flags.DEFINE_list("scales", ["0", "0.5", "1", "2"], "Size of the couplings.")
_DRAWS = flags.DEFINE_integer("draws", 200_000, "Draws an instance.", lower_bound=1)
_INSTANCES = flags.DEFINE_integer("instances", 10, "Random potentials.", lower_bound=1)


def compare(num_variables: int, scale: float, draws: int, instances: int) -> dict:
    """The row that is printed for one n and scale."""
    generator = np.random.default_rng(0)
    estimator = Flips(num_variables, perturbation="unary", seed=0)
    (size,) = estimator.posterior.parameter_shape
    figures = []
    for instance in range(instances):
        potentials = generator.normal(size=[1, size])
        potentials[:, num_variables:] *= scale
        potentials = tf.constant(potentials, tf.float32)
        posterior = estimator.posterior(potentials)
        exact = posterior.probabilities()[0].numpy()
        tiled = estimator.posterior(tf.repeat(potentials, draws, axis=0))
        perturbed = _frequencies(posterior, estimator.draw(tiled, [instance, 1]))
        chance = _frequencies(posterior, posterior.sample(draws, [instance, 2])[0])
        seen = perturbed > 0
        figures.append(
            {
                "total_variation": 0.5 * np.abs(perturbed - exact).sum(),
                "noise_floor": 0.5 * np.abs(chance - exact).sum(),
                "kl_to_gibbs": np.sum(perturbed[seen] * np.log(perturbed[seen] / exact[seen])),
            }
        )
    means = {name: float(np.mean([row[name] for row in figures])) for name in figures[0]}
    return {
        "n": num_variables,
        "scale": scale,
        "draws": draws,
        "instances": instances,
        **{name: round(value, 5) for name, value in means.items()},
    }


def _frequencies(posterior, codes):
    """Share of each configuration among codes [draws, n, 2]."""
    index = posterior.index(codes).numpy()
    return np.bincount(index, minlength=posterior.num_configurations) / len(index)


def main():
    ns, scales = command_line.integers("n", 1), command_line.numbers("scales")
    if max(ns) > 15:
        raise ValueError(
            f"Expected --n of at most 15, whose configurations are counted; received {max(ns)}. "
            "Please give fewer variables."
        )
    for num_variables in ns:
        for scale in scales:
            row = compare(num_variables, scale, _DRAWS.value, _INSTANCES.value)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    command_line.run(main)
