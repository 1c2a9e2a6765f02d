"""Which estimator, and its temperature: flags of the programs that let one choose."""

from absl import flags

from tf_direct_opt.runs import vae_flags

FLAGS = flags.FLAGS

flags.DEFINE_string(
    "estimator",
    "direct",
    "Registered name of a gradient estimator: direct, exact, reinmax, gumbel_softmax, disarm, ...",
)
flags.DEFINE_float("temperature", 1.0, "First temperature of a relaxation.")
flags.DEFINE_float("temperature_rate", 0.0, "Its exponential decay a step.", 0.0)
flags.DEFINE_float("temperature_final", 0.1, "What it never falls below.")
flags.DEFINE_integer(
    "num_flipped",
    None,
    "Variables an image whose flips direct and local_expectation decode, drawn at random [all].",
    lower_bound=1,
)
for _name in ("temperature", "temperature_final"):
    flags.register_validator(_name, lambda value: value > 0, "has to be positive")

# The flags that an argument is made of.
_READ = {
    "difference": ("difference",),
    "epsilon": ("epsilon", "epsilon_final", "epsilon_rate", "epsilon_schedule"),
    "num_flipped": ("num_flipped",),
    "temperature": ("temperature", "temperature_rate", "temperature_final"),
}


def build(steps_an_epoch: int, **more):
    """The estimator that the flags describe; of `more`, it gets the arguments that it takes.

    `table` is how `direct` is to see the flips here. `imle` is itself with its own table only.
    """
    from tf_direct_opt import estimators, schedules

    choices = {
        "epsilon": vae_flags.epsilon(steps_an_epoch),
        "difference": FLAGS.difference,
        "temperature": schedules.FlooredExponentialDecay(
            FLAGS.temperature, FLAGS.temperature_rate, FLAGS.temperature_final
        ),
        "num_flipped": FLAGS.num_flipped,
        "seed": FLAGS.seed,
        **more,
    }
    if FLAGS.estimator != "direct":
        choices.pop("table", None)
    taken = estimators.arguments(FLAGS.estimator) & choices.keys()
    for argument, names in _READ.items():
        if argument not in taken:
            vae_flags.say_unread(names, f"for --estimator={FLAGS.estimator}")
    return estimators.get(FLAGS.estimator, **{name: choices[name] for name in taken})
