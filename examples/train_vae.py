"""Trains a discrete VAE.

    python examples/train_vae.py --k=40 --dataset=mnist

Without further flags it trains on scikit-learn's embedded digits. Schedules that are not given
take what was found to train the estimator best (`tf_direct_opt.runs.presets`); for direct: during
--warmup_epochs a large epsilon with the KL switched off, then a small epsilon with the KL on.
Results go to --output_dir; the last line printed is JSON with the figures of the test images.
"""

import itertools
import json
import math

import data
from absl import flags

from tf_direct_opt import runs
from tf_direct_opt.runs import command_line, estimator_flags, training, vae_flags

FLAGS = flags.FLAGS

flags.DEFINE_integer("k", 10, "Categories a variable.", lower_bound=2)
flags.DEFINE_integer("num_variables", 1, "Categorical variables.", lower_bound=1)
flags.DEFINE_enum("prior", "uniform", ["uniform", "learned"], "Of the codes.")
flags.DEFINE_list("encoder_units", None, "Widths of its hidden layers, if any [--hidden_units].")
flags.DEFINE_list("decoder_units", None, "The same of the decoder [--hidden_units].")
flags.DEFINE_integer("eval_samples", 100, "Draws an image of an evaluation.", lower_bound=1)
flags.adopt_module_key_flags(estimator_flags)  # --estimator, --temperature, ...
flags.adopt_module_key_flags(vae_flags)  # --hidden_units, --epsilon, --kl_weight, ...
flags.adopt_module_key_flags(training)  # --epochs, --learning_rate, --output_dir, --resume, ...
flags.adopt_module_key_flags(data)  # --dataset, --data_dir, ...


def build_model(feed):
    """The `DiscreteVAE` that the flags describe."""
    import tf_direct_opt as tdo

    per_pixel = tdo.likelihoods.get(FLAGS.likelihood).outputs_per_pixel
    return tdo.models.DiscreteVAE(
        num_variables=FLAGS.num_variables,
        num_categories=FLAGS.k,
        estimator=estimator_flags.build(feed.steps),
        kl_weight=vae_flags.kl_weight(feed.steps),
        hidden_units=FLAGS.hidden_units,
        likelihood=FLAGS.likelihood,
        prior=FLAGS.prior,
        encoder=network("encoder_units", FLAGS.num_variables * FLAGS.k),
        decoder=network("decoder_units", per_pixel * math.prod(feed.images.image_shape)),
        num_eval_samples=FLAGS.eval_samples,
    )


def hidden_layers(flag: str) -> list[int]:
    """The widths that the flag gives, or the model's own."""
    return [FLAGS.hidden_units] if FLAGS[flag].value is None else command_line.widths(flag)


def network(flag: str, outputs: int):
    """Dense layers of the widths that the flag gives; None without it: the model's own."""
    if FLAGS[flag].value is None:
        return None
    import keras

    hidden = [keras.layers.Dense(n, activation="relu") for n in hidden_layers(flag)]
    return keras.Sequential([keras.layers.Flatten(), *hidden, keras.layers.Dense(outputs)])


def make_feed():
    """The images in batches, in another order every epoch."""
    from tf_direct_opt.runs import batches

    return batches.ImageFeed(data.from_flags(), FLAGS.batch_size, FLAGS.seed)


def prepare() -> runs.Run:
    """Completes the flags by the estimator's preset, and checks them and the output folder."""
    vae_flags.complete(FLAGS.estimator, alone=FLAGS.num_variables == 1)
    data.check_flags()
    if FLAGS.num_variables == 1:
        vae_flags.say_unread(["eval_samples", "num_flipped"], "with one variable")
    if None not in (FLAGS.encoder_units, FLAGS.decoder_units):
        vae_flags.say_unread(["hidden_units"], "where both networks have widths of their own")
    width = FLAGS.num_variables * FLAGS.k
    layers = [*hidden_layers("encoder_units"), width, *hidden_layers("decoder_units")]
    weights = sum(a * b for a, b in itertools.pairwise(layers))
    # The codes of one variable are decoded for all images at once; weights have two moments.
    codes = width**2 if FLAGS.num_variables == 1 else width * FLAGS.batch_size
    command_line.require_memory(codes + 3 * weights, "fewer --k, or narrower layers")
    return training.prepare(
        FLAGS.find_module_defining_flag("k"), f"{FLAGS.dataset}-k{FLAGS.k}-{FLAGS.estimator}"
    )


def main():
    # TensorFlow takes seconds to import; mistakes in a command line are answered before.
    with prepare() as run:
        figures = training.train(run, make_feed(), build_model)
    print(json.dumps({"estimator": FLAGS.estimator, "k": FLAGS.k, **figures}))


if __name__ == "__main__":
    command_line.run(main)
