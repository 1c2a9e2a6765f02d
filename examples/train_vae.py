"""Trains a discrete VAE.

    python examples/train_vae.py --k=40 --dataset=mnist

Without further flags it trains on scikit-learn's embedded digits. Schedules that are not given
take what was found to train the estimator best, see presets.py; for direct: during --warmup_epochs
a large epsilon with the KL switched off, then a small epsilon with the KL on. Results go to
--output_dir; the last line printed is JSON with the figures of the test images.
"""

import json

import experiment
import presets
import settings
from absl import app, flags

FLAGS = flags.FLAGS

flags.DEFINE_integer("k", 10, "Categories a variable.", lower_bound=2)
flags.DEFINE_integer("num_variables", 1, "Categorical variables.", lower_bound=1)
flags.DEFINE_string(
    "estimator",
    "direct",
    "Gradient estimator: direct, disarm, exact, gumbel_softmax, imle, local_expectation, rebar, "
    "relax, score_function or straight_through.",
)
flags.DEFINE_float("temperature", 1.0, "First temperature of a relaxation.")
flags.DEFINE_float("temperature_rate", 0.0, "Its exponential decay a step.", 0.0)
flags.DEFINE_float("temperature_final", 0.1, "What it never falls below.")
for _name in ("temperature", "temperature_final"):
    flags.register_validator(_name, lambda value: value > 0, "has to be positive")
flags.adopt_module_key_flags(settings)
flags.adopt_module_key_flags(experiment)


def build_model(steps_an_epoch: int):
    """The `DiscreteVAE` that the flags describe."""
    import tf_direct_opt as tdo

    temperature = tdo.schedules.FlooredExponentialDecay(
        FLAGS.temperature, FLAGS.temperature_rate, FLAGS.temperature_final
    )
    choices = {
        "epsilon": settings.epsilon(steps_an_epoch),
        "difference": FLAGS.difference,
        "temperature": temperature,
        "seed": FLAGS.seed,
    }
    taken = tdo.estimators.arguments(FLAGS.estimator) & choices.keys()
    return tdo.models.DiscreteVAE(
        num_variables=FLAGS.num_variables,
        num_categories=FLAGS.k,
        estimator=tdo.estimators.get(FLAGS.estimator, **{name: choices[name] for name in taken}),
        kl_weight=settings.kl_weight(steps_an_epoch),
        hidden_units=FLAGS.hidden_units,
    )


def prepare() -> experiment.Run:
    """Completes the flags by the estimator's preset, checks them and opens the output folder."""
    presets.apply(FLAGS.estimator, FLAGS.num_variables)
    settings.check()
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
