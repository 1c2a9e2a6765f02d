"""Trains a convolutional discrete VAE: a grid of codes for a colour image.

    python examples/train_conv_vae.py --k=64 --dataset=cifar10

Every --stride by --stride pixels of an image become a categorical variable of --k categories, and
all variables share their codes: the encoder and the decoder are convolutions. Without further flags
it trains on patches of scikit-learn's two photographs. Results go to --output_dir, among them
reconstructions.png and samples.png; the last line printed is JSON with the figures of the test
images and how the codes are used.
"""

import json
import math

import colour
from absl import flags

from tf_direct_opt import runs
from tf_direct_opt.runs import command_line, estimator_flags, training, vae_flags

FLAGS = flags.FLAGS

flags.DEFINE_integer("k", 64, "Categories of a variable.", lower_bound=2)
flags.DEFINE_enum("stride", "4", ["2", "4", "8"], "Pixels of a variable, in each direction.")
flags.DEFINE_enum("prior", "uniform", ["uniform", "learned"], "Of the codes.")
flags.DEFINE_bool(
    "restart_dead_codes", False, "Before every epoch a dead code becomes half of one in use."
)
flags.DEFINE_integer("eval_samples", 1, "Draws an image of an evaluation.", lower_bound=1)
flags.adopt_module_key_flags(estimator_flags)  # --estimator, --temperature, ...
flags.adopt_module_key_flags(vae_flags)  # --hidden_units (channels), --likelihood, --kl_weight, ...
flags.adopt_module_key_flags(training)  # --epochs, --learning_rate, --output_dir, --resume, ...
flags.adopt_module_key_flags(colour)  # --dataset, --data_dir, ...
for _name, _value in (
    ("estimator", "reinmax"),
    ("likelihood", "discretised_logistic"),
    ("hidden_units", 64),
    ("epochs", 20),
):
    FLAGS.set_default(_name, _value)


def build_model(feed):
    """The `DiscreteVAE` that the flags describe, on a grid of variables."""
    import tf_direct_opt as tdo

    stride, (height, width, channels) = int(FLAGS.stride), feed.images.image_shape
    if height % stride or width % stride:
        raise ValueError(
            f"Expected --stride to divide the images of {height} by {width} pixels; received "
            f"{stride}. Please give another one."
        )
    grid = (height // stride, width // stride)
    outputs = channels * tdo.likelihoods.get(FLAGS.likelihood).outputs_per_pixel
    return tdo.models.DiscreteVAE(
        num_variables=math.prod(grid),
        num_categories=FLAGS.k,
        # All flips would be decoder evaluations by the thousand: without --num_flipped `direct`
        # takes their slopes.
        estimator=estimator_flags.build(
            feed.steps, table="single_flips" if FLAGS.num_flipped else "linearised"
        ),
        kl_weight=vae_flags.kl_weight(feed.steps),
        encoder=encoder(stride),
        decoder=decoder(stride, grid, outputs),
        num_eval_samples=FLAGS.eval_samples,
        likelihood=FLAGS.likelihood,
        prior=FLAGS.prior,
    )


def encoder(stride: int):
    """Images [B, height, width, channels] -> logits [B, height / stride, width / stride, K]."""
    import keras
    from keras import layers

    halvings = [
        layers.Conv2D(FLAGS.hidden_units, 4, 2, "same", activation="relu")
        for _ in range(int(math.log2(stride)))
    ]
    return keras.Sequential(
        [
            *halvings,
            layers.Conv2D(FLAGS.hidden_units, 3, 1, "same", activation="relu"),
            layers.Conv2D(FLAGS.k, 1, name="logits", dtype="float32"),  # Also in half precision.
        ],
        name="encoder",
    )


def decoder(stride: int, grid: tuple[int, int], outputs: int):
    """Codes [B, N K] -> what the likelihood takes, [B, height, width, outputs]."""
    import keras
    from keras import layers

    middle = keras.initializers.Constant(0.5)
    doublings = [
        layers.Conv2DTranspose(FLAGS.hidden_units, 4, 2, "same", activation="relu")
        for _ in range(int(math.log2(stride)))
    ]
    return keras.Sequential(
        [
            layers.Reshape((*grid, FLAGS.k)),
            layers.Dense(FLAGS.hidden_units, use_bias=False, name="embedding"),
            layers.Conv2D(FLAGS.hidden_units, 3, 1, "same", activation="relu"),
            *doublings,
            # The locations of pixels start in the middle; logits do not mind.
            layers.Conv2D(outputs, 3, 1, "same", bias_initializer=middle, dtype="float32"),
        ],
        name="decoder",
    )


def make_feed():
    """The images in batches, in another order every epoch."""
    from tf_direct_opt.runs import batches

    return batches.ImageFeed(colour.from_flags(), FLAGS.batch_size, FLAGS.seed, 100)


def prepare() -> runs.Run:
    """Completes the flags by the estimator's preset, and checks them and the output folder."""
    vae_flags.complete(FLAGS.estimator, alone=False)
    colour.check_flags()
    return training.prepare(
        FLAGS.find_module_defining_flag("stride"), f"{FLAGS.dataset}-k{FLAGS.k}-{FLAGS.estimator}"
    )


def draw(run: runs.Run, model, images) -> None:
    """Writes reconstructions.png, each image above what is made of it, and samples.png."""
    from tf_direct_opt import pictures

    made = model.predict(images, verbose=0)["reconstruction"]
    pictures.write_reconstructions(run.directory / "reconstructions.png", images, made)
    samples = model.sample(len(images), seed=0)
    pictures.write_images(run.directory / "samples.png", samples, columns=8, enlarged=2)


def main():
    # TensorFlow takes seconds to import; mistakes in a command line are answered before.
    with prepare() as run:
        feed = make_feed()
        from tf_direct_opt import codebook

        usage = codebook.CodeUsage(feed.images.train[:500], FLAGS.restart_dead_codes)
        figures = training.train(run, feed, build_model, [usage])
        draw(run, usage.model, feed.images.test[:24])
        codes = codebook.figures(usage.usage(feed.images.test[:500]))
    named = {"estimator": FLAGS.estimator, "k": FLAGS.k, "likelihood": FLAGS.likelihood}
    print(json.dumps({**named, **figures, "codes": codes}))


if __name__ == "__main__":
    command_line.run(main)
