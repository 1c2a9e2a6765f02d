"""Trains a discrete VAE.

    python examples/train_vae.py --k=40 --dataset=mnist

Without further flags it trains on scikit-learn's embedded digits. Schedules that are not given
take what was found to train the estimator best, see presets.py; for direct: during --warmup_epochs
a large epsilon with the KL switched off, then a small epsilon with the KL on. Results go to
--output_dir; the last line printed is JSON with the figures of the test images.
"""

import json
import math

import experiment
import presets
from absl import app, flags

FLAGS = flags.FLAGS

flags.DEFINE_integer("k", 10, "Categories a variable.", lower_bound=2)
flags.DEFINE_integer("num_variables", 1, "Categorical variables.", lower_bound=1)
flags.DEFINE_integer("hidden_units", 300, "Width of the hidden layers.", lower_bound=1)
flags.DEFINE_string(
    "estimator",
    "direct",
    "Gradient estimator: direct, disarm, exact, gumbel_softmax, imle, local_expectation, rebar, "
    "relax, score_function or straight_through.",
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
    ["two_phase", "constant", "linear", "annealed"],
    "two_phase: 0 for --warmup_epochs, then --kl_weight. constant: --kl_weight. linear: from 0 to "
    "--kl_weight in --warmup_epochs. annealed: from --kl_weight_first to --kl_weight in "
    "--warmup_epochs, by a constant factor a step.",
)
flags.DEFINE_float("kl_weight_first", 10.0, "First beta of the annealed schedule.")
flags.DEFINE_float("kl_weight", 1.0, "Last beta, the weight of the KL.", lower_bound=0.0)
flags.DEFINE_integer("warmup_epochs", None, "Length of the first phase [the preset's].", 0)
for _name in ("epsilon", "epsilon_final", "temperature", "temperature_final", "kl_weight_first"):
    flags.register_validator(_name, lambda value: value > 0, "has to be positive")
flags.adopt_module_key_flags(experiment)


def build_model(steps_an_epoch: int):
    """The `DiscreteVAE` that the flags describe."""
    import tf_direct_opt as tdo

    warmup_steps = FLAGS.warmup_epochs * steps_an_epoch
    temperature = tdo.schedules.FlooredExponentialDecay(
        FLAGS.temperature, FLAGS.temperature_rate, FLAGS.temperature_final
    )
    settings = {
        "epsilon": _epsilon(warmup_steps),
        "temperature": temperature,
        "seed": FLAGS.seed,
    }
    taken = tdo.estimators.arguments(FLAGS.estimator) & settings.keys()
    return tdo.models.DiscreteVAE(
        num_variables=FLAGS.num_variables,
        num_categories=FLAGS.k,
        estimator=tdo.estimators.get(FLAGS.estimator, **{name: settings[name] for name in taken}),
        kl_weight=_kl_weight(warmup_steps),
        hidden_units=FLAGS.hidden_units,
    )


def _epsilon(warmup_steps: int):
    from tf_direct_opt import schedules

    match FLAGS.epsilon_schedule:
        case "two_phase":
            return schedules.two_phase(FLAGS.epsilon, FLAGS.epsilon_final, warmup_steps)
        case "exponential":
            return schedules.FlooredExponentialDecay(
                FLAGS.epsilon, FLAGS.epsilon_rate, FLAGS.epsilon_final
            )
    return FLAGS.epsilon_final


def _kl_weight(warmup_steps: int):
    import keras

    from tf_direct_opt import schedules

    last = FLAGS.kl_weight
    match FLAGS.kl_schedule:
        case _ if warmup_steps == 0:
            return last
        case "two_phase":
            return schedules.two_phase(0.0, last, warmup_steps)
        case "linear":
            return keras.optimizers.schedules.PolynomialDecay(0.0, warmup_steps, last)
        case "annealed":
            rate = math.log(FLAGS.kl_weight_first / last) / warmup_steps
            return schedules.FlooredExponentialDecay(FLAGS.kl_weight_first, rate, last)
    return last


def prepare() -> experiment.Run:
    """Completes the flags by the estimator's preset, checks them and opens the output folder."""
    presets.apply()
    if FLAGS.kl_schedule == "annealed" and not 0 < FLAGS.kl_weight <= FLAGS.kl_weight_first:
        raise ValueError(
            "Expected 0 < --kl_weight <= --kl_weight_first for --kl_schedule=annealed; received "
            f"{FLAGS.kl_weight} and {FLAGS.kl_weight_first}. Please give another --kl_schedule."
        )
    return experiment.prepare(
        FLAGS.find_module_defining_flag("estimator"),
        f"{FLAGS.dataset}-k{FLAGS.k}-{FLAGS.estimator}",
    )


def main(argv):
    with experiment.input_errors():
        experiment.refuse_arguments(argv)
        run = prepare()
        # TensorFlow takes seconds to import; mistakes in a command line are answered before.
        import training

        figures = training.train(run, build_model)
    print(json.dumps({"estimator": FLAGS.estimator, "k": FLAGS.k, **figures}))


if __name__ == "__main__":
    app.run(main)
