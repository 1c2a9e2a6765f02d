"""Bias, variance and direction of every estimator's gradient against the exact one.

    python experiments/gradient_quality.py --k=10 --output_dir=runs/quality
    python experiments/gradient_quality.py --k=2 --num_variables=8 --output_dir=runs/quality_binary
    python experiments/gradient_quality.py --k=8 --num_variables=4 --output_dir=runs/quality_8x4

The model of train_vae.py, as initialised and as trained by it with the same flags, gives two
encoders and decoders. On one batch of training images the gradient of E_q f towards the encoder's
weights is computed exactly, by enumeration of all K^N codes, and drawn --draws times from every
estimator that the shape allows, over a grid of its epsilon, temperature or number of samples.

Into --output_dir: the run, and gradient_quality.csv and .png. Bias and standard deviation of a draw
are relative to the norm of the exact gradient, the latter also at the price of one decoder
evaluation an image (a deviation falls with the root of what is averaged) and relative to the norm
of the mean; the cosine with the exact gradient is that of a draw, on average, and that of the mean.
"""

import itertools
import json
import math

import _examples  # noqa: F401
import train_vae
from absl import flags

from tf_direct_opt.runs import command_line, training

FLAGS = flags.FLAGS

_ESTIMATORS = flags.DEFINE_list("estimators", None, "Estimators [all that the shape allows].")
flags.adopt_module_key_flags(train_vae)
_DRAWS = flags.DEFINE_integer("draws", 400, "Draws of every estimator.", lower_bound=2)

MAX_CODES = 4096
TUNING_STEPS = 300
_EPSILONS = {"epsilon": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)}
_TEMPERATURES = {"temperature": (0.1, 0.3, 1.0, 3.0)}
GRID = (
    ("direct", {"difference": ("toward_better", "central"), **_EPSILONS}),
    ("imle", _EPSILONS),
    ("adaptive_imle", {}),
    ("candidates", {"num_candidates": (2, 4, 8, 16)}),
    ("gumbel_softmax", _TEMPERATURES),
    ("straight_through", {"relaxed": ("scores", "logits"), **_TEMPERATURES}),
    ("gumbel_rao", {"temperature": (0.1, 0.3, 1.0)}),
    ("gst", {"temperature": (0.3, 1.0)}),
    ("reinmax", {"temperature": (1.0, 1.3)}),
    ("score_function", {"num_samples": (2, 4, 16)}),
    ("arms", {"num_samples": (2, 4, 16)}),
    ("double_cv", {"num_samples": (2, 4, 16)}),
    ("exact", {}),
    ("local_expectation", {}),
    ("disarm", {}),
    ("rebar", {}),
    ("relax", {}),
)
BINARY = ("disarm", "rebar", "relax")


def chosen() -> list[str]:
    """The estimators of --estimators; without it, all of the grid that the shape allows.

    Raises:
        ValueError: one that is not of the grid, or that the shape does not allow.
    """
    names = [name for name, _ in GRID]
    not_allowed = set(BINARY) if FLAGS.k != 2 else set()
    if FLAGS.num_variables != 1:
        not_allowed.add("exact")
    if _ESTIMATORS.value is None:
        return [name for name in names if name not in not_allowed]
    given = command_line.choices("estimators", names)
    if refused := [name for name in given if name in not_allowed]:
        raise ValueError(
            f"Expected --estimators of those that --k={FLAGS.k} and --num_variables="
            f"{FLAGS.num_variables} allow; received {', '.join(refused)}. Please leave them out."
        )
    return given


def settings():
    """Name and arguments of every chosen estimator, over the grid."""
    names = chosen()
    for name, grid in GRID:
        if name not in names:
            continue
        for values in itertools.product(*grid.values()):
            arguments = dict(zip(grid, values, strict=True))
            if arguments.get("num_candidates", 0) <= FLAGS.k**FLAGS.num_variables:
                yield name, arguments


def exact_gradient(model, images):
    """Gradient of the batch's mean E_q f towards the encoder's weights, over all codes: [W]."""
    import tensorflow as tf

    codes = list(itertools.product(range(model.num_categories), repeat=model.num_variables))
    codes = tf.one_hot(codes, model.num_categories)  # [K^N, N, K]
    losses = model.make_loss_fn(images)(codes[tf.newaxis])  # [B, K^N]
    with tf.GradientTape() as tape:
        log_posterior = tf.einsum("mnk,bnk->bm", codes, tf.nn.log_softmax(model(images)["logits"]))
        mean = tf.reduce_mean(tf.reduce_sum(tf.exp(log_posterior) * losses, axis=1))
    return _flat(tape.gradient(mean, model.encoder.trainable_variables))


def drawn_gradients(model, images, estimator, draws: int):
    """Draws of the estimator's gradient towards the encoder's weights: [draws, W]."""
    import keras
    import numpy as np
    import tensorflow as tf

    loss_fn = model.make_loss_fn(images)

    @tf.function
    def draw(network):
        with tf.GradientTape() as tape:
            logits = model(images)["logits"]
            loss = tf.reduce_mean(estimator(logits, loss_fn=loss_fn, training=True))
        return tape.gradient(loss, network.trainable_variables)

    optimizer = keras.optimizers.Adam(3e-3)
    # Weights of its own beside its seed, a control variate or a step, are tuned beforehand.
    for _ in range(TUNING_STEPS if len(estimator.weights) > 1 else 0):
        slopes = draw(estimator)
        if slopes:
            optimizer.apply(slopes, estimator.trainable_variables)
    return np.stack([_flat(draw(model.encoder)) for _ in range(draws)])


def _flat(gradients):
    import numpy as np

    return np.concatenate([np.ravel(gradient) for gradient in gradients]).astype(np.float64)


def measure(model, images, stage: str) -> list[dict]:
    """A row for every estimator and setting."""
    from evaluations import decoder_evaluations, gradient_quality

    import tf_direct_opt as tdo

    exact = exact_gradient(model, images)
    rows = []
    for name, arguments in settings():
        estimator = tdo.estimators.get(name, seed=FLAGS.seed, **arguments)
        estimator.build((None, model.num_variables, model.num_categories))
        cost = decoder_evaluations(
            estimator, model.num_variables, model.num_categories, len(images)
        )
        training.say(f"{stage} model, {name}: {_DRAWS.value} draws.")
        row = gradient_quality(drawn_gradients(model, images, estimator, _DRAWS.value), exact)
        row["deviation_an_evaluation"] = row["deviation"] * math.sqrt(cost)
        kind = [arguments.pop(key) for key in ("difference", "relaxed") if key in arguments]
        setting = "".join(f"{key}={value:g}" for key, value in arguments.items())
        label = " ".join([name, *kind])
        figures = {key: f"{value:.3g}" for key, value in row.items()}
        rows.append(
            {"model": stage, "estimator": label, "setting": setting, "draws": _DRAWS.value}
            | {"decoder_evaluations": f"{cost:g}", **figures}
        )
    return rows


def plot(rows: list[dict]):
    """Deviation at one decoder evaluation against bias, and cosine; a column for each model."""
    import matplotlib.figure

    stages = list(dict.fromkeys(row["model"] for row in rows))
    names = list(dict.fromkeys(row["estimator"] for row in rows))
    figure = matplotlib.figure.Figure(figsize=(5 * len(stages), 9), layout="constrained")
    axes = figure.subplots(2, len(stages), squeeze=False)
    floor = 1e-3
    for column, stage in enumerate(stages):
        for number, name in enumerate(names):
            of = [row for row in rows if (row["model"], row["estimator"]) == (stage, name)]
            # A bias within the error of its measurement is shown as that error.
            bias = [max(float(row["bias"]), float(row["bias_error"]), floor) for row in of]
            cosine = [float(row["cosine"]) for row in of]
            deviation = [max(float(row["deviation_an_evaluation"]), floor) for row in of]
            for panel, values in zip(axes[:, column], (deviation, cosine), strict=True):
                colour = matplotlib.colormaps["tab20"](number % 20)
                panel.plot(bias, values, color=colour, marker="o", markersize=4, label=name)
                for row, *point in zip(of, bias, values, strict=True):
                    panel.annotate(row["setting"].partition("=")[2], point, fontsize=6)
        axes[0, column].set(
            title=stage, xscale="log", yscale="log", ylabel="deviation at one decoder evaluation"
        )
        axes[1, column].set(xscale="log", xlabel="bias", ylabel="cosine with the exact gradient")
    legend = axes[0, 0].get_legend_handles_labels()
    figure.legend(*legend, loc="outside lower center", ncols=4, fontsize="small")
    return figure


def main():
    command_line.require_packages("matplotlib")
    num_codes = FLAGS.k**FLAGS.num_variables
    if num_codes > MAX_CODES:
        raise ValueError(
            f"Expected at most {MAX_CODES} codes for the exact gradient; received {num_codes}, "
            f"from --k={FLAGS.k} and --num_variables={FLAGS.num_variables}. Please give fewer."
        )
    chosen()
    with train_vae.prepare() as run:
        import keras
        import tensorflow as tf

        from tf_direct_opt import files

        feed = train_vae.make_feed()
        untrained = training.compiled(feed, train_vae.build_model)
        batch = tf.cast(feed.images.train[: FLAGS.batch_size], tf.float32)
        if feed.images.redrawn:  # They are probabilities, which training draws from.
            uniform = tf.random.stateless_uniform(batch.shape, (FLAGS.seed, 0))
            batch = tf.cast(uniform < batch, tf.float32)
        rows = measure(untrained, batch, "untrained")
        training.train(run, feed, train_vae.build_model)
        rows += measure(keras.models.load_model(run.directory / "model.keras"), batch, "trained")
        path = run.directory / "gradient_quality.csv"
        files.write_table(path, rows[0], rows)
        with files.replacing(path.with_suffix(".png")) as temporary:
            plot(rows).savefig(temporary, dpi=80)
    print(json.dumps({"settings": len(rows), "table": str(path)}))


if __name__ == "__main__":
    command_line.run(main)
