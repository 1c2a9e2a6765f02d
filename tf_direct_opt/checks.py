"""What arguments have to be, whoever takes them; each error names its argument."""

import numpy as np

LAYER_ARGUMENTS = frozenset(["name", "dtype", "trainable", "activity_regularizer", "autocast"])
"""What every layer of Keras takes."""


def check_bool(value, name: str) -> bool:
    """The value itself if it is True or False; ValueError for what merely counts as one."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"Expected `{name}` to be True or False; received {value!r}.")
    return bool(value)


def check_count(value, name: str, least: int, greatest: int | None = None) -> int:
    """The value itself if it is an integer in the range; ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        in_range = False
    else:
        in_range = bool(value >= least and (greatest is None or value <= greatest))
    if not in_range:
        limits = f"of at least {least}" if greatest is None else f"from {least} to {greatest}"
        raise ValueError(f"Expected `{name}` to be an integer {limits}; received {value!r}.")
    return int(value)
