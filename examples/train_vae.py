"""Trains a discrete VAE.

    python examples/train_vae.py --k=40 --dataset=mnist

Without further flags it trains on scikit-learn's embedded digits. Schedules that are not given
take what was found to train the estimator best, see presets.py; for direct: during --warmup_epochs
a large epsilon with the KL switched off, then a small epsilon with the KL on. Results go to
--output_dir; the last line printed is JSON with the figures of the test images.
"""

import estimator_flags
import experiment
import presets
import program
import settings
from absl import app, flags

FLAGS = flags.FLAGS

flags.DEFINE_integer("k", 10, "Categories a variable.", lower_bound=2)
flags.DEFINE_integer("num_variables", 1, "Categorical variables.", lower_bound=1)
flags.adopt_module_key_flags(estimator_flags)
flags.adopt_module_key_flags(settings)
flags.adopt_module_key_flags(experiment)


def build_model(feed):
    """The `DiscreteVAE` that the flags describe."""
    import tf_direct_opt as tdo

    return tdo.models.DiscreteVAE(
        num_variables=FLAGS.num_variables,
        num_categories=FLAGS.k,
        estimator=estimator_flags.build(feed.steps),
        kl_weight=settings.kl_weight(feed.steps),
        hidden_units=FLAGS.hidden_units,
    )


def prepare() -> experiment.Run:
    """Completes the flags by the estimator's preset, checks them and opens the output folder."""
    presets.apply(FLAGS.estimator, alone=FLAGS.num_variables == 1)
    settings.check()
    return experiment.prepare(
        FLAGS.find_module_defining_flag("k"),
        f"{FLAGS.dataset}-k{FLAGS.k}-{FLAGS.estimator}",
    )


def main(argv):
    program.main(argv, prepare, build_model, ("estimator", "k"))


if __name__ == "__main__":
    app.run(main)
