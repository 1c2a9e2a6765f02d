"""Trains a VAE whose posterior is a chain, a k-subset or independent variables.

    python experiments/posterior_vae.py --posterior=chain --num_variables=10 --k=4 --dataset=mnist
    python experiments/posterior_vae.py --posterior=k_subset --num_variables=20 --subset=5

A chain, and --posterior=categorical, its control with the same decoder, have --num_variables of --k
categories; a k-subset chooses --subset of --num_variables elements, and its control has as many
independent bits, --posterior=categorical --k=2. The gradient is that of `estimators.Candidates`,
its noise averaged out. Without further flags it trains on scikit-learn's embedded digits.

Results go to --output_dir, with reconstructions.png, images above what is made of them; the last
line printed is JSON with the figures of the test images. Up to 2^15 configurations they are exact,
beyond the -ELBO is a mean over --eval_samples draws an image.
"""

import json

import _examples  # noqa: F401
import data
from absl import flags

from tf_direct_opt import runs
from tf_direct_opt.runs import command_line, training, vae_flags

FLAGS = flags.FLAGS

flags.DEFINE_enum("posterior", "chain", ["chain", "k_subset", "categorical"], "Family of q.")
flags.DEFINE_integer("num_variables", 10, "Variables, or elements.", lower_bound=2)
flags.DEFINE_integer("k", 4, "Categories of a variable.", lower_bound=2)
flags.DEFINE_integer("subset", 5, "Elements that a k-subset takes.", lower_bound=1)
flags.DEFINE_integer("num_candidates", 8, "Configurations drawn for a gradient.", lower_bound=2)
flags.DEFINE_integer("eval_samples", 100, "Draws an image in an evaluation.", lower_bound=1)
flags.adopt_module_key_flags(vae_flags)  # --hidden_units, --epsilon, --kl_weight, ...
flags.adopt_module_key_flags(training)  # --epochs, --learning_rate, --output_dir, --resume, ...
flags.adopt_module_key_flags(data)  # --dataset, --data_dir, ...


def build_model(feed):
    """The `PosteriorVAE` that the flags describe."""
    import tf_direct_opt as tdo

    arguments = {"k": FLAGS.subset}
    if FLAGS.posterior != "k_subset":
        arguments = {"num_categories": FLAGS.k}
    posterior = tdo.posteriors.get(FLAGS.posterior, num_variables=FLAGS.num_variables, **arguments)
    return tdo.models.PosteriorVAE(
        posterior,
        tdo.estimators.Candidates(
            posterior,
            FLAGS.num_candidates,
            vae_flags.epsilon(feed.steps),
            averaged=True,
            difference=FLAGS.difference,
            seed=FLAGS.seed,
        ),
        kl_weight=vae_flags.kl_weight(feed.steps),
        hidden_units=FLAGS.hidden_units,
        num_eval_samples=FLAGS.eval_samples,
        likelihood=FLAGS.likelihood,
    )


def make_feed():
    """The images in batches, in another order every epoch."""
    from tf_direct_opt.runs import batches

    return batches.ImageFeed(data.from_flags(), FLAGS.batch_size, FLAGS.seed)


def prepare() -> runs.Run:
    """Completes the flags by the preset, and checks them and the output folder."""
    vae_flags.complete("averaged", alone=False)
    data.check_flags()
    if FLAGS.posterior == "k_subset" and FLAGS.subset >= FLAGS.num_variables:
        raise ValueError(
            f"Expected --subset below the {FLAGS.num_variables} --num_variables; received "
            f"{FLAGS.subset}. Please give fewer, or more variables."
        )
    return training.prepare(
        FLAGS.find_module_defining_flag("subset"), f"{FLAGS.dataset}-{FLAGS.posterior}"
    )


def draw(run: runs.Run, images) -> None:
    """Writes reconstructions.png: each image above its most probable configuration, decoded."""
    import keras

    from tf_direct_opt import pictures

    model = keras.saving.load_model(run.directory / "model.keras")
    made = model.predict(images, verbose=0)["reconstruction"]
    pictures.write_reconstructions(run.directory / "reconstructions.png", images, made)


def main():
    with prepare() as run:
        feed = make_feed()
        figures = training.train(run, feed, build_model)
        draw(run, feed.images.test[:24].astype("float32"))
    print(json.dumps({"posterior": FLAGS.posterior, **figures}))


if __name__ == "__main__":
    command_line.run(main)
