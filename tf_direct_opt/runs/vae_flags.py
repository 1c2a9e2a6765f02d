"""Flags of the programs that train a VAE: its width, likelihood, epsilon and beta."""

import functools
import math
import sys
from collections.abc import Iterable

from absl import flags

from tf_direct_opt.runs import presets

FLAGS = flags.FLAGS

flags.DEFINE_integer("hidden_units", 300, "Width of the hidden layers.", lower_bound=1)
flags.DEFINE_enum(
    "likelihood",
    "bernoulli",
    ["bernoulli", "gaussian", "discretised_logistic", "categorical"],
    "Of the pixels. All but the first want them as they are, not binarised.",
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
flags.DEFINE_enum(
    "difference",
    "toward_better",
    ["toward_better", "away_from_worse", "central"],
    "Sign of the step of epsilon.",
)
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
for _name in ("epsilon", "epsilon_final", "kl_weight_first"):
    flags.register_validator(_name, lambda value: value > 0, "has to be positive")


def complete(preset: str, alone: bool) -> None:
    """Gives every flag that was left at its default its value in a preset.

    Args:
        preset: a name that `presets.of` knows, of an estimator or one of its own.
        alone: whether a single variable is all that the decoder sees.

    Raises:
        ValueError: flags that are in range each but do not fit together.
    """
    for name, value in presets.of(preset, alone, FLAGS.epochs).items():
        if not FLAGS[name].present:
            FLAGS[name].value = value
    _say_what_is_not_read()
    decaying = [("temperature", "temperature_final")] if "temperature" in FLAGS else []
    if FLAGS.epsilon_schedule == "exponential":
        decaying.append(("epsilon", "epsilon_final"))
    for first, last in decaying:
        begins, ends = getattr(FLAGS, first), getattr(FLAGS, last)
        if begins < ends:
            raise ValueError(
                f"Expected --{first} of at least --{last}, below which it never falls; received "
                f"{begins} and {ends}. Please give both."
            )
    if FLAGS.kl_schedule == "annealed" and not 0 < FLAGS.kl_weight <= FLAGS.kl_weight_first:
        raise ValueError(
            "Expected 0 < --kl_weight <= --kl_weight_first for --kl_schedule=annealed; received "
            f"{FLAGS.kl_weight} and {FLAGS.kl_weight_first}. Please give another --kl_schedule."
        )


# What each schedule does not read.
_NOT_READ = {
    "epsilon_schedule": {
        "two_phase": ("epsilon_rate",),
        "constant": ("epsilon", "epsilon_rate"),
        "exponential": (),
    },
    "kl_schedule": {
        "two_phase": ("kl_weight_first",),
        "constant": ("kl_weight_first",),
        "linear": ("kl_weight_first",),
        "annealed": (),
    },
}


def _say_what_is_not_read() -> None:
    for schedule, not_read in _NOT_READ.items():
        value = str(FLAGS[schedule].value)
        say_unread(not_read[value], f"under --{schedule}={value}")
    if FLAGS.likelihood != "bernoulli" and "binarize" in FLAGS and FLAGS.binarize != "none":
        say_once(
            f"--likelihood={FLAGS.likelihood} is for pixels of many values, and these are 0 or 1: "
            "please give --binarize=none."
        )


def say_unread(names: Iterable[str], where: str) -> None:
    """A note on flags that were given and change nothing; a flagfile may have them for others."""
    for name in names:
        if FLAGS[name].present and FLAGS[name].value != FLAGS[name].default:
            say_once(f"--{name} changes nothing {where}.")


@functools.cache  # A grid completes the flags of every cell.
def say_once(line: str) -> None:
    print(f"note: {line}", file=sys.stderr)


def epsilon(steps_an_epoch: int):
    """The number or schedule that --epsilon_schedule and its like describe."""
    from tf_direct_opt import schedules

    match FLAGS.epsilon_schedule:
        case "two_phase":
            warmup_steps = FLAGS.warmup_epochs * steps_an_epoch
            return schedules.two_phase(FLAGS.epsilon, FLAGS.epsilon_final, warmup_steps)
        case "exponential":
            return schedules.FlooredExponentialDecay(
                FLAGS.epsilon, FLAGS.epsilon_rate, FLAGS.epsilon_final
            )
    return FLAGS.epsilon_final


def kl_weight(steps_an_epoch: int):
    """The number or schedule that --kl_schedule and its like describe."""
    import keras

    from tf_direct_opt import schedules

    last = FLAGS.kl_weight
    warmup_steps = FLAGS.warmup_epochs * steps_an_epoch
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
