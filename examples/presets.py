"""The schedules each estimator trains best with, found by the search that the README tells of.

They complete the flags of a program: what was given on a command line stays as it is.
"""

from absl import flags

FLAGS = flags.FLAGS

# `warmup` is the share of all epochs that the first phase takes.
_TWO_PHASE = {"kl_schedule": "two_phase", "warmup": 1 / 3}
_ANNEALED = {"kl_schedule": "annealed", "kl_weight_first": 10.0, "warmup": 1 / 2}
_COOLED = {**_ANNEALED, "temperature": 1.0, "temperature_rate": 3e-4, "temperature_final": 0.1}

PRESETS = {
    "direct": _TWO_PHASE,
    "gumbel_softmax": _COOLED,
    "imle": _TWO_PHASE,
    "structured_direct": _TWO_PHASE,
}


def apply(estimator: str) -> None:
    """Gives every flag that was left at its default the value of the estimator's preset."""
    preset = dict(PRESETS.get(estimator, _ANNEALED))
    preset["warmup_epochs"] = int(preset.pop("warmup") * FLAGS.epochs)
    for name, value in preset.items():
        if not FLAGS[name].present:
            FLAGS[name].value = value
