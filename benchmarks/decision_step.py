"""CPU milliseconds of a training step through a shortest path, method by method, under `fit`.

    python benchmarks/decision_step.py --sizes=5,10,20,30 --batches=32
    python benchmarks/decision_step.py --sizes=5 --batches=32,100,320,1000

A linear model from five features to the edges of a grid, trained by the direct gradient (a
decision and the central difference: three argmaxes), by SPO+ and by the Fenchel-Young loss (one
each) and by squared error (none). The methods take turns, an epoch each, so that what else runs on
the machine meets all of them. Prints a JSON line for each size and batch.
"""

import json
import statistics
import time

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from tf_direct_opt import decisions, solvers
from tf_direct_opt.layers import PerturbedArgmax
from tf_direct_opt.runs import command_line

FLAGS = flags.FLAGS
flags.DEFINE_list("sizes", ["5"], "Sides of the grid.")
flags.DEFINE_list("batches", ["32"], "Examples in a step.")
METHODS = ["direct", "spo_plus", "fenchel_young", "two_stage"]
flags.DEFINE_list("methods", METHODS, "Which.")
flags.DEFINE_integer("steps", 32, "Steps of an epoch.", lower_bound=1)
flags.DEFINE_integer("repeats", 9, "Timed epochs, after one that is not.", lower_bound=1)
flags.DEFINE_bool("jit_compile", False, "Compile with XLA.")


def make_model(method: str, solver, num_edges: int) -> keras.Model:
    """The compiled model of one method."""
    features = keras.Input((5,))
    output = keras.layers.Dense(num_edges)(features)
    if method == "direct":
        layer = PerturbedArgmax(2.0, solver, 0, "central", noise_scale=0.3, minimize=True)
        output, loss = layer(output), decisions.DecisionLoss()
    elif method == "spo_plus":
        loss = decisions.SPOPlus(solver)
    elif method == "fenchel_young":
        loss = decisions.PerturbedFenchelYoung(solver, seed=0)
    else:

        def loss(targets, costs):
            return tf.reduce_mean((targets[:, 0] - costs) ** 2, axis=-1)  # fmt: skip

    model = keras.Model(features, output)
    model.compile(
        keras.optimizers.Adam(1e-2), loss, steps_per_execution=FLAGS.steps,
        jit_compile=FLAGS.jit_compile,
    )  # fmt: skip
    return model


def measure(size: int, batch: int) -> dict:
    """Median CPU milliseconds a step of every method, on one size and batch."""
    edges = solvers.grid_edges(size, size)
    solver = solvers.DagPath(edges)
    generator = np.random.default_rng(0)
    num_examples = batch * FLAGS.steps
    features = generator.normal(size=[num_examples, 5]).astype(np.float32)
    costs = generator.uniform(0.5, 1.5, [num_examples, len(edges)])
    targets = decisions.targets(costs, solver)
    models = {method: make_model(method, solver, len(edges)) for method in FLAGS.methods}
    times = {method: [] for method in models}
    for repeat in range(FLAGS.repeats + 1):
        for method, model in models.items():
            start = time.process_time()
            model.fit(features, targets, batch_size=batch, verbose=0)
            if repeat:
                times[method].append(1e3 * (time.process_time() - start) / FLAGS.steps)
    result = {"size": size, "batch": batch, "jit_compile": FLAGS.jit_compile}
    for method, values in times.items():
        result[f"{method}_ms"] = round(statistics.median(values), 2)
    if {"direct", "spo_plus"} <= times.keys():
        ratios = [a / b for a, b in zip(times["direct"], times["spo_plus"], strict=True)]
        result["direct_over_spo_plus"] = round(statistics.median(ratios), 2)
    return result


def main():
    command_line.choices("methods", METHODS)
    sizes, batches = command_line.integers("sizes", 2), command_line.integers("batches", 1)
    for size in sizes:
        for batch in batches:
            print(json.dumps(measure(size, batch)), flush=True)


if __name__ == "__main__":
    command_line.run(main)
