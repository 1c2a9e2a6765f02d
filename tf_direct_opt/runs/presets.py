"""The schedules that each estimator trains best with; docs/results.md tells how they were found."""

from typing import Any

Preset = dict[str, Any]

# `warmup` is the share of all epochs that the first phase takes.
_TWO_PHASE: Preset = {"kl_schedule": "two_phase", "warmup": 1 / 3}
_ANNEALED: Preset = {"kl_schedule": "annealed", "kl_weight_first": 10.0, "warmup": 1 / 2}

# One variable that explains all of the image: what decides is whether the symmetry of the codes is
# broken before the KL counts.
_ALONE: dict[str, Preset] = {
    "direct": _TWO_PHASE,
    "gumbel_softmax": {**_ANNEALED, "temperature_rate": 3e-4, "temperature_final": 0.1},
    "imle": _TWO_PHASE,
    "straight_through": {**_ANNEALED, "temperature_rate": 1e-4, "temperature_final": 0.3},
}

# Several, or one beside a Gaussian: they share the image between them, nothing collapses, and the
# bound is trained at once.
_SMALL_STEP = {"epsilon_schedule": "constant", "epsilon_final": 0.1}
_HALF = {"temperature": 0.5}
_SHARED: dict[str, Preset] = {
    # A finite step keeps q open while the decoder finds its codes; the limit trains the bound.
    "averaged": {"epsilon": 0.2, "epsilon_final": 0.001, "warmup": 2 / 3},
    "direct": _SMALL_STEP,
    "gumbel_rao": _HALF,
    "gumbel_softmax": _HALF,
    "imle": _SMALL_STEP,
    "reinmax": {"temperature": 1.3},
    "straight_through": _HALF,
    "structured": {"epsilon_schedule": "constant", "epsilon_final": 0.2},
}


def of(name: str, alone: bool, epochs: int) -> Preset:
    """Values of the flags of `vae_flags.py`, by name.

    Args:
        name: of the estimator; "structured" and "averaged" are `candidates` of a structured one.
        alone: whether a single variable is all that the decoder sees.
        epochs: of the whole training, a share of which is the first phase.

    Example:
        >>> of("direct", alone=True, epochs=30)
        {'kl_schedule': 'two_phase', 'warmup_epochs': 10}
    """
    if alone:
        preset = dict(_ALONE.get(name, _ANNEALED))
    else:
        preset = {"kl_schedule": "constant", "warmup": 0.0, **_SHARED.get(name, {})}
    preset["warmup_epochs"] = int(preset.pop("warmup") * epochs)
    return preset
