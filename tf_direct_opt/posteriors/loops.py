"""A recursion over levels: unrolled while it is short, a loop of the graph beyond."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

# A short recursion runs and compiles faster unrolled; a long one would take seconds to trace.
MAX_UNROLLED = 16


def scan(
    step: Callable[[Any, Any], Any], elements: Any, initial: Any, reverse: bool = False
) -> Any:
    """`tf.scan`: stacked results [L, ...] of after = step(before, element), from `initial` on.

    Args:
        step: (before, element) -> after, of the structure of `initial`.
        elements: structure of tensors [L, ...], L known.
        initial: structure of tensors.
        reverse: from the last element to the first; results keep the order of the elements.
    """
    length = tf.nest.flatten(elements)[0].shape[0]
    if length > MAX_UNROLLED:
        return tf.scan(step, elements, initial, reverse=reverse)
    results, state = [], initial
    for i in reversed(range(length)) if reverse else range(length):
        state = step(state, tf.nest.map_structure(lambda x, i=i: x[i], elements))
        results.append(state)
    if reverse:
        results.reverse()
    return tf.nest.map_structure(lambda *parts: tf.stack(parts), *results)
