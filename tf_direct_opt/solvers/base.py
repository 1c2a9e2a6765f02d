"""The contract of an argmax solver.

A solver is any callable

    code = solver(scores)        # scores: float32 [B, *event] -> code: float32 [B, *event]

that returns, for each example, the 0/1 sufficient statistics of the configuration with the
highest score, the lowest one where several tie. It draws no noise and defines no gradient. No
base class is needed; a solver in Python rather than TensorFlow says so with an attribute
`supports_jit = False`, which keeps XLA away from the layers that use it, and one that approximates
has an attribute `exact`, the solver that is asked for targets, in metrics and at inference.

Configurations are sequences of choices and ordered as such: the lower index (a category, a label,
a column, an edge) before the higher, for binary variables 0 before 1. Each solver names its order,
and says so where it cannot hold to it.

The solvers of this package refuse scores of a wrong shape (ValueError) and scores that are not
finite (tf.errors.InvalidArgumentError; XLA drops that check, and layers and metrics then give NaN).
Those with arguments have `get_config`, from which `solvers.get` makes them again.
"""

import inspect
import os
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from tf_direct_opt.perturbation import check_finite
from tf_direct_opt.types import Solver

# Of one batch; training, which solves at least two in every step, seems to stand still.
SLOW_SECONDS = 10.0


def supports_jit(solver: Solver) -> bool:
    """Whether XLA can compile the solver; a callable that does not say is taken at its word."""
    return getattr(solver, "supports_jit", True)


def check_exportable(solver: Solver) -> None:
    """ValueError for a solver that runs in Python, which an exported model cannot take along."""
    if not supports_jit(solver):
        raise ValueError(
            "Expected a solver in TensorFlow in a model that is exported; received "
            f"{solver!r}, which runs in Python and would fail where the model is served. "
            "Export the model that ends at the scores, and solve them there."
        )


def exact(solver: Solver) -> Solver:
    """The solver that answers where an approximate one will not do: of targets, at inference."""
    other = getattr(solver, "exact", None)
    # One's own may have a flag or a method of that name.
    return other if callable(other) and not inspect.ismethod(other) else solver


def check_scores(
    scores: tf.Tensor,  # [B, *event]
    event_shape: tuple[int | None, ...],
    name: str,
) -> tf.Tensor:
    """The scores themselves, as a tensor, if they are finite and of shape [B, *event_shape].

    Args:
        scores: what the solver received.
        event_shape: sizes expected after the batch; None for one that is free.
        name: of the solver, for the message.

    Raises:
        ValueError: another shape.
        tf.errors.InvalidArgumentError: an infinite or NaN score, in eager and graph mode.
    """
    scores = tf.convert_to_tensor(scores)
    if scores.dtype.is_integer:
        scores = tf.cast(scores, tf.float32)
    if scores.shape.rank == 0 or not scores.shape[1:].is_compatible_with(event_shape):
        expected = ", ".join(
            ["batch", *("*" if size is None else str(size) for size in event_shape)]
        )
        raise ValueError(
            f"Expected scores of shape [{expected}] for {name}; received shape {scores.shape}. "
            "Reshape them, or make the solver for another size."
        )
    scores = check_finite(scores, f"scores for {name}")
    count = scores.shape[1:].num_elements()
    if not count or scores.dtype.size < 4:
        return scores
    # A sum of the least floats would be -inf, as what lies outside of a problem is.
    greatest = scores.dtype.max / (2 * count)
    return tf.clip_by_value(scores, -greatest, greatest)


def solve_in_python(
    solve_batch: Callable[[np.ndarray], np.ndarray],  # [B, *event] -> [B, *event]
    scores: tf.Tensor,  # [B, *event]
) -> tf.Tensor:
    """A solver in NumPy as one operation of the graph, for the whole batch.

    An exception of the solver surfaces as itself in eager mode. In graph mode TensorFlow wraps
    it: type and message are in the text of the tf.errors.OpError that is raised instead. A batch
    that takes longer than `SLOW_SECONDS` is said once, as a RuntimeWarning.
    """

    def timed(batch):
        start = time.monotonic()
        code = np.asarray(solve_batch(batch), batch.dtype)
        seconds = time.monotonic() - start
        if seconds > SLOW_SECONDS:
            warnings.warn(
                f"Expected a solver of less than {SLOW_SECONDS:g} s a batch; one of {len(batch)} "
                f"problems took {seconds:.0f} s, and every training step solves two or more. "
                "Please give smaller batches or problems, threads, or a solver with a limit.",
                RuntimeWarning,
                stacklevel=1,
            )
        return code

    code = tf.numpy_function(timed, [scores], scores.dtype)
    code.set_shape(scores.shape)
    return code


def one_by_one(
    solve: Callable[[np.ndarray], np.ndarray],  # [*event] -> [*event]
    batch: np.ndarray,  # [B, *event]
    threads: bool = False,
) -> np.ndarray:
    """Solves each example, in as many threads as there are cores if `threads`.

    Threads serve a library that releases the interpreter lock: HiGHS does (1.7 times as fast on
    two cores); SciPy's assignment and PyMaxflow do not, and threads only slow them down.
    """
    code = np.empty_like(batch)
    results: Iterable[np.ndarray]
    if threads and len(batch) > 1:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            results = list(pool.map(solve, batch))
    else:
        results = map(solve, batch)
    for index, result in enumerate(results):
        code[index] = result
    return code


def check_ties(ties: str) -> str:
    """`ties` itself if a solver knows it; ValueError otherwise."""
    known = ("lowest", "any")
    if ties not in known:
        raise ValueError(f"Expected `ties` in {known}; received {ties!r}.")
    return ties


def scaled_for_highs(
    scores: np.ndarray,  # [n] float64
) -> np.ndarray:
    """The scores times a power of two, which is exact, by which the greatest is about 2^13.

    HiGHS stops at an absolute gap of 1e-6, which SciPy cannot change: this makes it 1e-10 of the
    greatest score, below the resolution of float32.
    """
    greatest = np.abs(scores).max()
    return np.ldexp(scores, 13 - np.frexp(greatest)[1]) if greatest > 0 else scores
