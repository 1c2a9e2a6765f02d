"""A function of NumPy arrays as a solver with a name, by which a saved model finds it again."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_direct_opt.checks import check_bool
from tf_direct_opt.solvers.base import check_scores, one_by_one, solve_in_python

REGISTERED: dict[str, "InPython"] = {}
OF_THE_PACKAGE: set[str] = set()  # Names that are no user's.


class InPython:
    """A solver from a function of NumPy arrays; `solvers.register` makes it."""

    supports_jit = False

    def __init__(self, function: Callable, name: str, batched: bool, threads: bool):
        self.function, self.name = function, name
        self.batched, self.threads = batched, threads
        self.__doc__ = function.__doc__

    def __repr__(self):
        return f"<solver {self.name!r} in Python>"

    def __call__(
        self,
        scores: tf.Tensor,  # [B, *event]
    ) -> tf.Tensor:
        scores = tf.convert_to_tensor(scores)
        event_shape = scores.shape[1:] if scores.shape.rank else ()
        return solve_in_python(self._checked, check_scores(scores, event_shape, self.name))

    def _checked(self, batch):
        def solve(scores):
            code = np.asarray(self.function(scores.copy()))
            wrong = code.shape != scores.shape
            if wrong or not np.isin(code.astype(np.float64, copy=False), (0.0, 1.0)).all():
                received = f"shape {code.shape}" if wrong else "other entries"
                raise ValueError(
                    f"Expected the solver {self.name!r} to return 0/1 entries in the shape of its "
                    f"scores, {scores.shape}; received {received}."
                )
            return code

        return solve(batch) if self.batched else one_by_one(solve, batch, self.threads)


def register(name: str, batched: bool = False, threads: bool = False) -> Callable:
    """Makes a function of NumPy arrays a solver, known to `solvers.get` by its name.

    The function takes the scores [*event] of one example, or of a batch [B, *event] with
    `batched=True`, and returns 0/1 of the same shape: the configuration with the highest sum of
    scores. A saved model holds the name; where it is loaded the function has to be registered.

    Args:
        name: a name of one's own, such as "depot/route".
        batched: whether the function takes a batch.
        threads: whether examples are solved in parallel, for a function that releases the
            interpreter's lock.

    Raises:
        ValueError: a name of the package, or one that another function has, or no name. The same
            function, such as that of a notebook's cell, may be registered again; one that another
            function makes, which may differ each time, may not.

    Example:
        >>> @register("best_of_all")
        ... def best_of_all(scores):
        ...     return np.arange(len(scores)) == scores.argmax()
        >>> get("best_of_all")(tf.constant([[0.0, 2.0, 1.0]])).numpy()
        array([[0., 1., 0.]], dtype=float32)
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"Expected a `name` for the solver; received {name!r}.")

    check_bool(batched, "batched")
    check_bool(threads, "threads")
    if name in OF_THE_PACKAGE:
        raise ValueError(
            f"Expected a `name` of your own for the solver; received {name!r}, which is one of "
            "this package. Please give another, such as 'depot/route'."
        )

    def decorate(function):
        known = REGISTERED.get(name)
        if known is not None and not _is_again(function, known.function):
            raise ValueError(
                f"Expected a `name` that is not taken; received {name!r}, under which "
                f"{'.'.join(_place(known.function))} is registered. Please give another."
            )
        REGISTERED[name] = InPython(function, name, batched, threads)
        return REGISTERED[name]

    return decorate


def _is_again(function, known):
    """Whether it is the known function, or the same `def` of a module or notebook once more.

    What another function made, a lambda and an object may be another solver each time.
    """
    if function is known:
        return True
    _, name = _place(function)
    return _place(function) == _place(known) and hasattr(function, "__name__") and "<" not in name


def _place(function):
    """Where a function is written: the same for one that is defined again."""
    kind = function if hasattr(function, "__qualname__") else type(function)
    return kind.__module__, kind.__qualname__
