"""The polynomial toy problem: 128 bits, each to be far from 0.45, by every estimator.

    python experiments/polynomial_toy.py --output_dir=runs/toy

Minimises E mean_i |z_i - 0.45|^p over the logits of 128 independent bits, p = 1.5, 2 and 3, from
logits near 0: batches of 64 draws, 8,000 steps, Adam 1e-3, as ReinMax's paper has it. The optimum,
all bits 0, is 0.45^p: 0.30187, 0.2025, 0.091125; bits tossed fairly have 0.35488, 0.2525, 0.12875.

Into --output_dir: polynomial_toy.csv, a row for each estimator and p: the flags that decide it;
what is reported by the paper, the mean loss of the draws of the last 200 steps, which of
`gumbel_softmax` are no codes; the loss expected under the final logits; how far the latter is from
the optimum, as a share of where it began; decoder evaluations a step and example; CPU seconds. An
estimator that is there already, under the same flags, is not run again.

References:
    Liu, Dong, Liu, Yu, Gao, NeurIPS 2023, arXiv:2304.08612; Tucker et al., NeurIPS 2017 (one bit).
"""

import csv
import json
import pathlib
import time

import _examples  # noqa: F401
from absl import flags

from tf_direct_opt.runs import command_line

FLAGS = flags.FLAGS

flags.DEFINE_list("estimators", None, "Registered names [all for several variables].")
flags.DEFINE_float("epsilon", 128.0, "Of direct and its kin: 1 for the sum over the bits.", 0.0)
flags.DEFINE_integer("steps", 8000, "Steps, a multiple of 200.", lower_bound=200)
flags.DEFINE_integer("seed", 0, "Of the logits and the noise.", lower_bound=0)
flags.DEFINE_string("output_dir", None, "Folder of the table.")

POWERS = (1.5, 2.0, 3.0)
NUM_BITS = 128
DRAWS = 64
TARGET = 0.45
CALL = 200
# Of one variable; of structured potentials; 16 of 2^128 configurations: 300 ms a step.
LEFT_OUT = ("exact", "flips", "candidates")
SETTINGS = ("estimator", "steps", "seed", "epsilon")
FIGURES = ("p", "mean_loss", "expected_loss", "left", "evaluations", "cpu_seconds")


def powers(distance):
    """distance [3 * 64, ...], each third to its own power."""
    import tensorflow as tf

    return tf.concat([part**p for part, p in zip(tf.split(distance, 3), POWERS, strict=True)], 0)


def settings_of(name: str) -> dict[str, str]:
    """What decides the results of an estimator, as the table has it."""
    from tf_direct_opt import estimators

    takes_one = "epsilon" in estimators.arguments(name)
    values = (name, FLAGS.steps, FLAGS.seed, FLAGS.epsilon if takes_one else "")
    return dict(zip(SETTINGS, map(str, values), strict=True))


def read(path: pathlib.Path) -> list[dict]:
    """The rows of the table, if it is there.

    Raises:
        ValueError: it is damaged, or another one.
    """
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
        reader = csv.DictReader(text.splitlines())
        rows = list(reader)
        whole = (
            text.endswith("\n")
            and tuple(reader.fieldnames or ()) == SETTINGS + FIGURES
            and [float(row["p"]) for row in rows] == [*POWERS] * (len(rows) // len(POWERS))
            and not any(None in row or None in row.values() for row in rows)
        )
    except (csv.Error, TypeError, ValueError):
        whole = False
    if not whole:
        raise ValueError(
            f"Expected the table of this program in {path}; received a damaged one, or another. "
            "Please move it, or give another --output_dir."
        )
    return rows


def train(name: str) -> list[dict]:
    """A row for each p: three problems side by side, in one batch."""
    import keras
    import tensorflow as tf
    from evaluations import decoder_evaluations

    from tf_direct_opt import estimators

    arguments = {"seed": FLAGS.seed}
    if "epsilon" in estimators.arguments(name):
        arguments["epsilon"] = FLAGS.epsilon
    estimator = estimators.get(name, **arguments)
    evaluations = decoder_evaluations(estimator, NUM_BITS, 2, DRAWS)
    estimator = estimators.get(name, **arguments)
    estimator.build((None, NUM_BITS, 2))
    shape = [len(POWERS), NUM_BITS, 2]
    initial = tf.random.stateless_uniform(shape, [FLAGS.seed, 0], -0.01, 0.01)
    logits = keras.Variable(initial)
    variables = [logits, *estimator.trainable_variables]
    optimizer = keras.optimizers.Adam(1e-3, epsilon=1e-8)
    optimizer.build(variables)

    def loss_fn(codes):  # [3 * 64, M, 128, 2]
        return tf.reduce_mean(powers(tf.abs(codes[..., 1] - TARGET)), axis=-1)

    @tf.function(jit_compile=True)
    def steps():
        total = tf.zeros([len(POWERS)])
        for step in tf.range(CALL):
            with tf.GradientTape() as tape:
                repeated = tf.repeat(logits.value, DRAWS, axis=0)
                losses = estimator(repeated, loss_fn=loss_fn, step=step, training=True)
                means = tf.reduce_mean(tf.reshape(losses, [len(POWERS), DRAWS]), axis=1)
                loss = tf.reduce_sum(means)
            optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
            total += means
        return total / CALL

    start = time.process_time()
    for _ in range(FLAGS.steps // CALL):
        means = steps()
    seconds = time.process_time() - start
    share = tf.nn.softmax(logits.value)[..., 1].numpy().mean(axis=1)  # of ones
    began = tf.nn.softmax(initial)[..., 1].numpy().mean(axis=1)
    rows = []
    for i, p in enumerate(POWERS):
        expected = share[i] * (1 - TARGET) ** p + (1 - share[i]) * TARGET**p
        rows.append(
            {
                **settings_of(name),
                "p": p,
                "mean_loss": f"{float(means[i]):.6f}",
                "expected_loss": f"{expected:.6f}",
                # The loss is linear in the share of ones, which is 0 at the optimum.
                "left": f"{share[i] / began[i]:.2g}",
                "evaluations": f"{evaluations:g}",
                "cpu_seconds": f"{seconds:.1f}",
            }
        )
    return rows


def main():
    if FLAGS.output_dir is None:
        raise ValueError(
            "Expected --output_dir, the folder of the table; received none. Please give one."
        )
    if FLAGS.steps % CALL:
        raise ValueError(
            f"Expected --steps to be a multiple of {CALL}; received {FLAGS.steps}. Please give one."
        )
    from tf_direct_opt import estimators, files

    known = [name for name in estimators.names() if name not in LEFT_OUT]
    names = command_line.choices("estimators", known) if FLAGS.estimators else known
    with files.locked(command_line.make_folder(FLAGS.output_dir)) as folder:
        path = folder / "polynomial_toy.csv"
        rows = read(path)
        for name in names:
            if any(row.items() >= settings_of(name).items() for row in rows):
                continue
            rows += train(name)
            files.write_table(path, SETTINGS + FIGURES, rows)
            print(json.dumps(rows[-len(POWERS) :]), flush=True)


if __name__ == "__main__":
    command_line.run(main)
