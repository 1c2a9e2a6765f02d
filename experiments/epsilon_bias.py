"""Bias and deviation of the direct gradient against epsilon, predicted and measured.

    python experiments/epsilon_bias.py --output_dir=runs/epsilon

One categorical variable with random logits and losses. Predicted by `coupled_law`, the joint law of
the two argmaxes; measured from --draws draws of the estimator itself, which it meets within its
error; beside it two steps combined (`richardson`), and what `flip_rate` each epsilon has. Into
--output_dir: epsilon_bias.csv, a row for each epsilon, with the flags that decide it, figures as
shares of the norm of the true gradient; and epsilon_bias.png. The last line printed is JSON: the
epsilon of the least mean square error of a draw, and of the mean of 1,000.
"""

import json

from absl import flags

from tf_direct_opt.runs import command_line

FLAGS = flags.FLAGS

flags.DEFINE_integer("k", 10, "Categories.", lower_bound=2)
flags.DEFINE_float("scale", 2.0, "Standard deviation of the losses, nats.", lower_bound=1e-3)
flags.DEFINE_integer("draws", 200_000, "Draws for each epsilon.", lower_bound=100)
flags.DEFINE_integer("seed", 0, "Of logits, losses and noise.", lower_bound=0)
flags.DEFINE_string("output_dir", None, "Folder of the table and the picture.")

EPSILONS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]
SETTINGS = ("k", "scale", "draws", "seed")
FIGURES = (
    "epsilon", "flip_rate", "bias", "deviation", "measured_bias", "measured_bias_error",
    "measured_deviation", "richardson_bias", "richardson_deviation",
)  # fmt: skip


def measure() -> list[dict]:
    """A row for each epsilon."""
    import numpy as np
    import tensorflow as tf
    from evaluations import gradient_quality

    from tf_direct_opt import coupled_law, estimators

    h, f = np.random.default_rng(FLAGS.seed).normal(size=[2, 1, FLAGS.k]).astype(np.float32)
    f *= FLAGS.scale
    p = np.exp(h) / np.exp(h).sum()
    exact = (p * (f - np.sum(p * f)))[0].astype(np.float64)
    norm = np.linalg.norm(exact)

    def losses(codes):  # Of shared codes, for every draw.
        return tf.einsum("smnk,k->sm", codes, f[0]) + tf.zeros([FLAGS.draws, 1])

    def gradients(epsilon, **config):
        estimator = estimators.get("direct", epsilon=epsilon, seed=FLAGS.seed, **config)
        logits = tf.repeat(h[:, np.newaxis], FLAGS.draws, axis=0)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = estimator(logits, loss_fn=losses, training=True)
        return tape.gradient(loss, logits)[:, 0].numpy().astype(np.float64)

    rows = []
    for epsilon in EPSILONS:
        law = coupled_law.coupled_law(h, f, epsilon)
        moments = coupled_law.difference_moments(law, epsilon)
        drawn = gradient_quality(gradients(epsilon), exact)
        combined = gradient_quality(gradients(epsilon, richardson=True), exact)
        figures = (
            epsilon, float(moments.flip_probability[0]),
            np.linalg.norm(moments.mean[0] - exact) / norm,
            float(moments.variance[0]) ** 0.5 / norm,
            drawn["bias"], drawn["bias_error"], drawn["deviation"],
            combined["bias"], combined["deviation"],
        )  # fmt: skip
        settings = {name: FLAGS[name].value for name in SETTINGS}
        texts = (f"{figure:.4g}" for figure in figures)
        rows.append(settings | dict(zip(FIGURES, texts, strict=True)))
    return rows


def draw(rows: list[dict], path) -> None:
    """The curves of the table, on logarithmic axes."""
    from matplotlib.figure import Figure

    def column(name):
        return [float(row[name]) for row in rows]

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    epsilons = column("epsilon")
    for name, label, style in (
        ("bias", "bias, predicted", "C0-"),
        ("measured_bias", "bias, measured", "C0o"),
        ("richardson_bias", "bias, two steps combined", "C2s"),
        ("deviation", "deviation of a draw, predicted", "C1-"),
        ("measured_deviation", "deviation of a draw, measured", "C1o"),
    ):
        axes.loglog(epsilons, column(name), style, label=label, markersize=4)
    axes.loglog(epsilons, column("flip_rate"), "C7--", label="share of draws that flip")
    axes.set(xlabel="epsilon, 1/nats", ylabel="share of the norm of the true gradient")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main():
    if FLAGS.output_dir is None:
        raise ValueError(
            "Expected --output_dir, the folder of the table; received none. Please give one."
        )
    command_line.require_packages("matplotlib")
    from tf_direct_opt import files

    folder = command_line.make_folder(FLAGS.output_dir, ["epsilon_bias.csv", "epsilon_bias.png"])
    rows = measure()
    files.write_table(folder / "epsilon_bias.csv", SETTINGS + FIGURES, rows)
    with files.replacing(folder / "epsilon_bias.png") as temporary:
        draw(rows, temporary)

    def best(examples):
        return min(
            rows, key=lambda row: float(row["bias"]) ** 2 + float(row["deviation"]) ** 2 / examples
        )["epsilon"]

    print(
        json.dumps(
            {"best_epsilon": float(best(1)), "best_epsilon_of_1000_draws": float(best(1000))}
        )
    )


if __name__ == "__main__":
    command_line.run(main)
