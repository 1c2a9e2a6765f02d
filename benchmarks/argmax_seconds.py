"""Milliseconds of one argmax over binary variables with pairwise scores, solver by solver.

    python benchmarks/argmax_seconds.py --solvers=enumerate --ns=5,10,15,18,20

Prints a JSON line for each solver and size. Each is measured in a process of its own, so that the
peak of the resident memory is its own too (it includes TensorFlow itself, the line with n = 0).
"""

import functools
import json
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import tensorflow as tf
from absl import flags

from tf_direct_opt import solvers
from tf_direct_opt.runs import command_line

FLAGS = flags.FLAGS
flags.DEFINE_list("solvers", ["enumerate"], "Among enumerate, maxflow, milp.")
flags.DEFINE_list("ns", ["0", "5", "10", "15", "18", "20"], "Numbers of binary variables.")
flags.DEFINE_integer("batch_size", 100, "Scores in a batch.", lower_bound=1)
flags.DEFINE_integer("repeats", 15, "Timed calls, after one that is not.", lower_bound=1)
flags.DEFINE_bool("jit_compile", False, "Compile with XLA (enumerate only).")
flags.DEFINE_bool("child", False, "Measure in this process.")

SOLVERS = {
    "enumerate": solvers.PairwiseBinary,
    "maxflow": solvers.PairwiseBinaryMaxFlow,
    "milp": functools.partial(solvers.PairwiseBinaryMILP, ties="any"),
}


def random_scores(num_variables: int, batch: int, coupled_up: bool) -> np.ndarray:
    """Standard normal unary and pairwise scores; |pairwise| for max-flow, unaries shifted down."""
    shape = [batch, num_variables * (num_variables + 1) // 2]
    scores = np.random.default_rng(0).normal(size=shape)
    if coupled_up:
        scores[:, num_variables:] = np.abs(scores[:, num_variables:])
        # Without this every variable would be on, and the cut trivial.
        scores[:, :num_variables] -= 0.4 * (num_variables - 1)
    return scores.astype(np.float32)


def measure(name: str, num_variables: int, batch: int, repeats: int, jit_compile: bool) -> dict:
    """Times of one solver on one batch, in this process."""
    milliseconds = []
    if num_variables:
        scores = tf.constant(random_scores(num_variables, batch, name == "maxflow"))
        solve = tf.function(SOLVERS[name](num_variables), jit_compile=jit_compile)
        solve(scores)
        for _ in range(repeats):
            start = time.perf_counter()
            solve(scores).numpy()
            milliseconds.append(1e3 * (time.perf_counter() - start))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    result = {"solver": name, "n": num_variables, "batch": batch, "peak_gib": round(peak, 2)}
    if milliseconds:
        result["median_ms"] = round(statistics.median(milliseconds), 2)
        result["min_ms"] = round(min(milliseconds), 2)
        result["max_ms"] = round(max(milliseconds), 2)
    return result


def main():
    names, ns = command_line.choices("solvers", SOLVERS), command_line.integers("ns")
    if "enumerate" in names and max(ns) > 20:
        raise ValueError(
            f"Expected --ns of at most 20 with enumerate; received {max(ns)}. Please give fewer, "
            "or other --solvers."
        )
    for name in names:
        for n in ns:
            if FLAGS.child:
                arguments = (FLAGS.batch_size, FLAGS.repeats, FLAGS.jit_compile)
                print(json.dumps(measure(name, n, *arguments)), flush=True)
                continue
            changed = ["--child", f"--solvers={name}", f"--ns={n}"]
            subprocess.run([sys.executable, *sys.argv, *changed], check=True)


if __name__ == "__main__":
    command_line.run(main)
