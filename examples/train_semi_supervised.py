"""Learns classes from few labels and many images, with a mixture of class and Gaussian latents.

    python examples/train_semi_supervised.py --num_labels=100 --dataset=mnist

Without further flags it trains on scikit-learn's embedded digits, 100 of them with labels. The
labelled images are drawn from the training part, as many of each class. During --label_epochs the
labels alone move the class of the encoder, the paper's first phase; afterwards the images without
labels do as well. --supervised trains the same encoder by the labels alone: the baseline;
--estimator=gumbel_softmax --label_loss=cross_entropy is the relaxation. Results go to
--output_dir, confusion.png among them; the last line printed is JSON with the figures of the test
images.
"""

import json

import data
from absl import flags

from tf_direct_opt import runs
from tf_direct_opt.runs import command_line, estimator_flags, training, vae_flags

FLAGS = flags.FLAGS

flags.DEFINE_integer("num_labels", 100, "Images whose labels are known.", lower_bound=1)
flags.DEFINE_integer("labelled_per_batch", 20, "Labelled images in a batch.", lower_bound=1)
flags.DEFINE_bool("supervised", False, "Train the encoder by the labels alone.")
flags.DEFINE_integer("label_epochs", None, "Length of the first phase [a third of all].", 0)
flags.DEFINE_enum(
    "label_loss", "direct", ["direct", "cross_entropy"], "What moves the class of a labelled image."
)
flags.DEFINE_float("label_epsilon", 0.05, "Step of the direct label loss, 1/nats.")
flags.DEFINE_float("label_cost", None, "Task loss of a wrong class [the limit: z*(eps) := label].")
flags.DEFINE_integer("gaussian_dim", 30, "Dimension of each Gaussian component.", lower_bound=1)
flags.DEFINE_enum("encoder", "dense", ["dense", "conv"], "Layers before the hidden one.")
flags.DEFINE_float("max_shift", 0.0, "Pixels that labelled images are moved by, up to.", 0.0)
flags.DEFINE_float("max_rotation", 0.0, "Degrees that they are turned by.", 0.0)
flags.DEFINE_float("max_zoom", 0.0, "Share of their size that they grow or shrink by.", 0.0, 0.9)
flags.DEFINE_float("max_shear", 0.0, "Horizontal pixels a vertical one that they lean by.", 0.0)
LABEL_STEP = ("label_epsilon", "label_cost")
OF_THE_BOUND = (  # Of which --supervised has none.
    "labelled_per_batch", "label_epochs", "estimator", "num_flipped", "difference", "epsilon",
    "epsilon_final", "epsilon_rate", "epsilon_schedule", "temperature", "temperature_final",
    "temperature_rate", "kl_schedule", "kl_weight", "kl_weight_first", "warmup_epochs",
)  # fmt: skip
for _name in LABEL_STEP:
    flags.register_validator(_name, lambda value: value is None or value > 0, "has to be positive")
flags.adopt_module_key_flags(estimator_flags)  # --estimator, --temperature, ...
flags.adopt_module_key_flags(vae_flags)  # --hidden_units, --epsilon, --kl_weight, ...
flags.adopt_module_key_flags(training)  # --epochs, --learning_rate, --output_dir, --resume, ...
flags.adopt_module_key_flags(data)  # --dataset, --data_dir, ...


def make_feed():
    """Batches of images with and without labels, of which --num_labels are known."""
    from tf_direct_opt.runs import few_labels

    images = data.from_flags()
    return few_labels.FewLabelsFeed(
        images,
        few_labels.labelled_subset(images.labels["train"], FLAGS.num_labels, FLAGS.seed),
        FLAGS.batch_size,
        FLAGS.batch_size if FLAGS.supervised else FLAGS.labelled_per_batch,
        FLAGS.seed,
        few_labels.Distortion(FLAGS.max_shift, FLAGS.max_rotation, FLAGS.max_zoom, FLAGS.max_shear),
    )


def build_model(feed):
    """The `MixtureVAE` that the flags describe."""
    import tf_direct_opt as tdo

    num_classes = feed.images.num_classes
    return tdo.models.MixtureVAE(
        num_categories=num_classes,
        gaussian_dim=FLAGS.gaussian_dim,
        estimator=estimator_flags.build(feed.steps, table="single_flips"),
        label_loss=FLAGS.label_loss,
        label_epsilon=FLAGS.label_epsilon,
        label_cost=FLAGS.label_cost,
        unlabelled_weight=tdo.schedules.two_phase(0.0, 1.0, FLAGS.label_epochs * feed.steps),
        generative=not FLAGS.supervised,
        kl_weight=vae_flags.kl_weight(feed.steps),
        hidden_units=FLAGS.hidden_units,
        likelihood=FLAGS.likelihood,
        encoder=_encoder(num_classes, feed.images.image_shape),
        seed=FLAGS.seed,
    )


def _encoder(num_classes: int, image_shape: tuple[int, int]):
    """Images -> logits of the classes and parameters of the Gaussians; None for the default."""
    import keras

    if FLAGS.encoder == "dense":
        return None
    return keras.Sequential(
        [
            keras.layers.Reshape((*image_shape, 1)),
            keras.layers.Conv2D(16, 5, 2, "same", activation="relu"),
            keras.layers.Conv2D(32, 5, 2, "same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(FLAGS.hidden_units, activation="relu"),
            keras.layers.Dense(num_classes * (1 + 2 * FLAGS.gaussian_dim)),
        ],
        name="encoder",
    )


def prepare() -> runs.Run:
    """Completes the flags by the estimator's preset, and checks them and the output folder."""
    vae_flags.complete(FLAGS.estimator, alone=False)
    if FLAGS.label_epochs is None:
        FLAGS.label_epochs = FLAGS.epochs // 3
    if FLAGS.dataset.startswith("omniglot"):
        raise ValueError(
            "Expected a --dataset whose parts have classes in common; received "
            f"{FLAGS.dataset!r}, whose test images are of other alphabets. Please give another."
        )
    if not FLAGS.supervised and FLAGS.labelled_per_batch >= FLAGS.batch_size:
        raise ValueError(
            f"Expected --labelled_per_batch below the --batch_size of {FLAGS.batch_size}; received "
            f"{FLAGS.labelled_per_batch}. Please give --supervised to train on labels alone."
        )
    if FLAGS.binarize == "bernoulli":
        raise ValueError(
            "Expected --binarize=threshold or none with labels; received bernoulli. Please give "
            "one of them."
        )
    if FLAGS.supervised:
        vae_flags.say_unread(OF_THE_BOUND, "with --supervised")
    if FLAGS.label_loss == "cross_entropy":
        vae_flags.say_unread(LABEL_STEP, "with --label_loss=cross_entropy")
    command_line.require_packages("matplotlib")
    data.check_flags()
    method = "supervised" if FLAGS.supervised else FLAGS.estimator
    return training.prepare(
        FLAGS.find_module_defining_flag("num_labels"),
        f"{FLAGS.dataset}-{FLAGS.num_labels}-{method}",
    )


def draw_confusion(run: runs.Run) -> None:
    """Writes confusion.png: shares of each class (rows) taken for each (columns), in percent."""
    import matplotlib.figure
    import numpy as np

    from tf_direct_opt import files

    metrics = json.loads((run.directory / "metrics.json").read_text())
    counts = np.array(metrics["confusion_matrix"])
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    picture = matplotlib.figure.Figure(figsize=(5, 5), layout="constrained")
    axes = picture.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.05:
            colour = "white" if share > 50 else "black"
            axes.text(column, row, f"{share:.1f}", ha="center", va="center", color=colour, size=7)
    axes.set(
        xticks=range(len(counts)),
        yticks=range(len(counts)),
        xlabel="taken for",
        ylabel="class",
        title=f"test images, accuracy {100 * metrics['test']['accuracy']:.2f} %",
    )
    with files.replacing(run.directory / "confusion.png") as temporary:
        picture.savefig(temporary, dpi=80)


def main():
    # TensorFlow takes seconds to import; mistakes in a command line are answered before.
    with prepare() as run:
        figures = training.train(run, make_feed(), build_model)
        draw_confusion(run)
    named = {name: FLAGS[name].value for name in ("estimator", "num_labels", "supervised")}
    print(json.dumps({**named, **figures}))


if __name__ == "__main__":
    command_line.run(main)
