"""Trains a discrete VAE.

    python examples/train_vae.py --k=40 --dataset=mnist

Without further flags it trains on scikit-learn's embedded digits. The schedules default to the
two-phase one that trains well: for --warmup_epochs a large epsilon with the KL switched off, then
a small epsilon with the KL on. Results go to --output_dir; the last line printed is JSON with the
figures of the test images.
"""

import json

import experiment
from absl import app, flags

FLAGS = flags.FLAGS

flags.DEFINE_integer("k", 10, "Categories a variable.", lower_bound=2)
flags.DEFINE_integer("num_variables", 1, "Categorical variables.", lower_bound=1)
flags.DEFINE_integer("hidden_units", 300, "Width of the hidden layers.", lower_bound=1)
flags.DEFINE_string(
    "estimator",
    "direct",
    "Gradient estimator: direct, disarm, exact, gumbel_softmax, imle, local_expectation, "
    "score_function or straight_through.",
)
flags.DEFINE_enum(
    "epsilon_schedule",
    "two_phase",
    ["two_phase", "constant", "exponential"],
    "two_phase: --epsilon for --warmup_epochs, then --epsilon_final. constant: --epsilon_final. "
    "exponential: max(--epsilon_final, --epsilon * exp(-step * --epsilon_rate)).",
)
flags.DEFINE_float("epsilon", 1.0, "First epsilon, 1/nats.")
flags.DEFINE_float("epsilon_final", 0.1, "Last epsilon, 1/nats.")
flags.DEFINE_float("epsilon_rate", 1e-5, "Decay a step of the exponential schedule.", 0.0)
flags.DEFINE_float("temperature", 1.0, "First temperature of a relaxation.")
flags.DEFINE_float("temperature_rate", 0.0, "Its exponential decay a step.", 0.0)
flags.DEFINE_float("temperature_final", 0.1, "What it never falls below.")
flags.DEFINE_enum(
    "kl_schedule",
    "two_phase",
    ["two_phase", "constant", "linear"],
    "two_phase: 0 for --warmup_epochs, then --kl_weight. constant: --kl_weight. linear: from 0 to "
    "--kl_weight in --warmup_epochs.",
)
flags.DEFINE_float("kl_weight", 1.0, "Last beta, the weight of the KL.", lower_bound=0.0)
flags.DEFINE_integer("warmup_epochs", None, "Length of the first phase [a third of --epochs].", 0)
for _name in ("epsilon", "epsilon_final", "temperature", "temperature_final"):
    flags.register_validator(_name, lambda value: value > 0, "has to be positive")
flags.adopt_module_key_flags(experiment)


def build_model(steps_an_epoch: int):
    """The `DiscreteVAE` that the flags describe."""
    import keras

    import tf_direct_opt as tdo

    warmup_epochs = FLAGS.epochs // 3 if FLAGS.warmup_epochs is None else FLAGS.warmup_epochs
    warmup_steps = warmup_epochs * steps_an_epoch
    epsilon = {
        "two_phase": tdo.schedules.two_phase(FLAGS.epsilon, FLAGS.epsilon_final, warmup_steps),
        "constant": FLAGS.epsilon_final,
        "exponential": tdo.schedules.FlooredExponentialDecay(
            FLAGS.epsilon, FLAGS.epsilon_rate, FLAGS.epsilon_final
        ),
    }[FLAGS.epsilon_schedule]
    kl_weight = {
        "two_phase": tdo.schedules.two_phase(0.0, FLAGS.kl_weight, warmup_steps),
        "constant": FLAGS.kl_weight,
        "linear": keras.optimizers.schedules.PolynomialDecay(
            0.0, max(warmup_steps, 1), FLAGS.kl_weight
        ),
    }[FLAGS.kl_schedule]
    temperature = tdo.schedules.FlooredExponentialDecay(
        FLAGS.temperature, FLAGS.temperature_rate, FLAGS.temperature_final
    )
    settings = {"epsilon": epsilon, "temperature": temperature, "seed": FLAGS.seed}
    taken = tdo.estimators.arguments(FLAGS.estimator) & settings.keys()
    return tdo.models.DiscreteVAE(
        num_variables=FLAGS.num_variables,
        num_categories=FLAGS.k,
        estimator=tdo.estimators.get(FLAGS.estimator, **{name: settings[name] for name in taken}),
        kl_weight=kl_weight,
        hidden_units=FLAGS.hidden_units,
    )


def main(argv):
    with experiment.input_errors():
        directory = experiment.prepare(argv, f"{FLAGS.dataset}-k{FLAGS.k}-{FLAGS.estimator}")
        # TensorFlow takes seconds to import; mistakes in a command line are answered before.
        import training

        figures = training.run(directory, build_model)
    print(json.dumps({"estimator": FLAGS.estimator, "k": FLAGS.k, **figures}))


if __name__ == "__main__":
    app.run(main)
