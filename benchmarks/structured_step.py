"""Milliseconds of a training step of the structured VAE, and the memory it takes.

    python benchmarks/structured_step.py --n=5,10,15,20
    python benchmarks/structured_step.py --n=15,30 --solver=maxflow
    python benchmarks/structured_step.py --n=15 --num_candidates=8 --averaged

The step is `train_step` of `StructuredVAE` under `tf.function`, as `fit` runs it: encoder
784-300-(n + n (n - 1) / 2), perturbed argmax, losses of --num_candidates, or of n + 1 flips under
noise on the unary potentials, second argmax, exact KL with its gradient, decoder 2n-300-784, Adam.
The images are random bits, as speed does not depend on what they show. Prints one JSON line for
each n, each from a process of its own, whose peak memory it reports.
"""

import json
import resource
import statistics
import subprocess
import sys
import time

from absl import flags

from tf_direct_opt.runs import command_line

flags.DEFINE_list("n", ["5", "10", "15", "20"], "Binary variables.")
_SOLVER = flags.DEFINE_enum(
    "solver", "enumerate", ["enumerate", "maxflow", "milp"], "Solver of the argmax."
)
_STRUCTURE = flags.DEFINE_enum("structure", "pairwise", ["pairwise", "none"], "Couplings, or none.")
_PERTURBATION = flags.DEFINE_enum(
    "perturbation", None, ["unary", "all", "configurations"], "What the noise is added to."
)
_NUM_CANDIDATES = flags.DEFINE_integer("num_candidates", 16, "Candidates.", lower_bound=2)
_AVERAGED = flags.DEFINE_bool("averaged", False, "Noise averaged out given the candidates.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 100, "Batch size.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 50, "Timed steps, after three that are not.", lower_bound=1)
_JIT_COMPILE = flags.DEFINE_bool("jit_compile", False, "XLA.")


def measure(num_variables: int) -> dict:
    """Times the steps in this process; returns the row that is printed."""
    import keras
    import numpy as np
    import tensorflow as tf

    import tf_direct_opt as tdo

    model = tdo.models.StructuredVAE(
        num_variables=num_variables,
        structure=_STRUCTURE.value,
        solver=_SOLVER.value,
        perturbation=_PERTURBATION.value,
        num_candidates=_NUM_CANDIDATES.value,
        averaged=_AVERAGED.value,
        epsilon=0.1,
        kl_weight=1.0,
        seed=0,
    )
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=_JIT_COMPILE.value)
    images = np.random.default_rng(0).integers(0, 2, [_BATCH_SIZE.value, 28, 28])
    images = tf.constant(images, tf.float32)
    model.build(images.shape)
    model.optimizer.build(model.trainable_variables)
    model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors(images).repeat())
    milliseconds = []
    for number in range(_STEPS.value + 3):
        start = time.perf_counter()
        float(model.train_function(batches)["loss"])
        if number >= 3:  # The first are traced.
            milliseconds.append(1e3 * (time.perf_counter() - start))
    return {
        "n": num_variables,
        "structure": _STRUCTURE.value,
        "solver": _SOLVER.value,
        "perturbation": model.perturbation,
        "num_candidates": _NUM_CANDIDATES.value,
        "averaged": _AVERAGED.value,
        "batch_size": _BATCH_SIZE.value,
        "jit_compile": _JIT_COMPILE.value,
        "steps": _STEPS.value,
        "median_ms": round(statistics.median(milliseconds), 2),
        "min_ms": round(min(milliseconds), 2),
        "max_ms": round(max(milliseconds), 2),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main():
    ns = command_line.integers("n", 1)
    if len(ns) == 1:
        print(json.dumps(measure(ns[0])), flush=True)
        return
    for number in ns:
        # A later flag replaces an earlier one.
        done = subprocess.run([sys.executable, *sys.argv, f"--n={number}"], check=False)
        if done.returncode:
            sys.exit(done.returncode)


if __name__ == "__main__":
    command_line.run(main)
