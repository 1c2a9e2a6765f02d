"""Trains a discrete VAE.

    python examples/train_vae.py --k=40 --dataset=mnist

Without further flags it trains on scikit-learn's embedded digits. The schedules default to the
two-phase one that trains well: for --warmup_epochs a large epsilon with the KL switched off, then
a small epsilon with the KL on. Results go to --output_dir; the last line printed is JSON with the
figures of the test images.
"""

import json

import experiment
import keras
from absl import app, flags

import tf_direct_opt as tdo

FLAGS = flags.FLAGS

flags.DEFINE_integer("k", 10, "Categories a variable.", lower_bound=2)
flags.DEFINE_integer("num_variables", 1, "Categorical variables.", lower_bound=1)
flags.DEFINE_integer("hidden_units", 300, "Width of the hidden layers.", lower_bound=1)
flags.DEFINE_enum("estimator", "direct", tdo.estimators.names(), "Gradient estimator.")
flags.DEFINE_enum(
    "epsilon_schedule",
    "two_phase",
    ["two_phase", "constant", "exponential"],
    "two_phase: --epsilon for --warmup_epochs, then --epsilon_final. constant: --epsilon_final. "
    "exponential: max(--epsilon_final, --epsilon * exp(--epsilon_rate * -step)).",
)
flags.DEFINE_float("epsilon", 1.0, "First epsilon, 1/nats.")
flags.DEFINE_float("epsilon_final", 0.1, "Last epsilon, 1/nats.")
flags.DEFINE_float("epsilon_rate", 1e-5, "Decay a step of the exponential schedule.", 0.0)
flags.DEFINE_enum(
    "kl_schedule",
    "two_phase",
    ["two_phase", "constant", "linear"],
    "two_phase: 0 for --warmup_epochs, then --kl_weight. constant: --kl_weight. linear: from 0 to "
    "--kl_weight in --warmup_epochs.",
)
flags.DEFINE_float("kl_weight", 1.0, "Last beta, the weight of the KL.", lower_bound=0.0)
flags.DEFINE_integer("warmup_epochs", 10, "Length of the first phase.", lower_bound=0)
for _name in ("epsilon", "epsilon_final"):
    flags.register_validator(_name, lambda value: value > 0, "an epsilon has to be positive")
flags.adopt_module_key_flags(experiment)


def epsilon_schedule(steps_an_epoch: int):
    """The schedule that the flags describe, in steps."""
    if FLAGS.epsilon_schedule == "constant":
        return FLAGS.epsilon_final
    if FLAGS.epsilon_schedule == "exponential":
        return tdo.schedules.FlooredExponentialDecay(
            FLAGS.epsilon, FLAGS.epsilon_rate, FLAGS.epsilon_final
        )
    warmup_steps = FLAGS.warmup_epochs * steps_an_epoch
    return tdo.schedules.two_phase(FLAGS.epsilon, FLAGS.epsilon_final, warmup_steps)


def kl_schedule(steps_an_epoch: int):
    """The schedule that the flags describe, in steps."""
    warmup_steps = FLAGS.warmup_epochs * steps_an_epoch
    if FLAGS.kl_schedule == "constant" or warmup_steps == 0:
        return FLAGS.kl_weight
    if FLAGS.kl_schedule == "linear":
        return keras.optimizers.schedules.PolynomialDecay(0.0, warmup_steps, FLAGS.kl_weight)
    return tdo.schedules.two_phase(0.0, FLAGS.kl_weight, warmup_steps)


def build_model(steps_an_epoch: int) -> tdo.models.DiscreteVAE:
    """The model that the flags describe."""
    config = {"epsilon": epsilon_schedule(steps_an_epoch)} if FLAGS.estimator == "direct" else {}
    return tdo.models.DiscreteVAE(
        num_variables=FLAGS.num_variables,
        num_categories=FLAGS.k,
        estimator=tdo.estimators.get(FLAGS.estimator, seed=FLAGS.seed, **config),
        kl_weight=kl_schedule(steps_an_epoch),
        hidden_units=FLAGS.hidden_units,
    )


def main(argv):
    title = f"{FLAGS.dataset}-k{FLAGS.k}-{FLAGS.estimator}"
    figures = experiment.run(argv, build_model, title)
    print(json.dumps({"estimator": FLAGS.estimator, "k": FLAGS.k, **figures}))


if __name__ == "__main__":
    app.run(main)
