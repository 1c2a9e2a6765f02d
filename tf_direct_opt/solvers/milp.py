"""Any programme over 0/1 variables with linear constraints: HiGHS."""

import functools

import numpy as np
import tensorflow as tf

from tf_direct_opt.checks import check_bool
from tf_direct_opt.solvers.base import (
    check_scores,
    check_ties,
    one_by_one,
    scaled_for_highs,
    solve_in_python,
)


class MILP:
    """argmax over z in {0, 1}^n with lower <= A z <= upper of sum_i h_i z_i.

    Scores and code [B, n]. HiGHS solves each example to a gap of zero, up to 1e-10 of the greatest
    score, in Python, in threads, through `scipy.optimize.milp`; needs SciPy
    (`pip install tf_direct_opt[solvers]`). The time of an integer programme has no useful bound.

    Args:
        matrix: A, [m, n], an array, lists or a sparse matrix of SciPy.
        upper: upper bounds [m], or one for all; None for none.
        lower: lower bounds [m], or one for all; None for none; equal to `upper` for equations.
        relax: solves the linear programme, which is faster, where its vertices are known to be
            0/1 (paths, flows, matchings: A totally unimodular).
        ties: "lowest", as every solver: of equal configurations the lowest, for which one more
            programme is solved for each z_i = 1; or "any", the same wherever noise leaves no ties.
        solve_ratio: share of the examples that are solved; the others take the best of the
            solutions seen so far, in training; targets, metrics and inference solve all.
        threads: whether to solve the examples of a batch in parallel.

    Raises:
        ImportError: SciPy is missing.
        ValueError: bad arguments; scores of another shape.
        RuntimeError: no feasible z, HiGHS gave up, or a relaxed solution is not 0/1 (in graph mode
            tf.errors.UnknownError with the same text).
        tf.errors.InvalidArgumentError: scores that are not finite.

    Example:
        >>> two_of_four = MILP([[1.0, 1.0, 1.0, 1.0]], upper=2.0)
        >>> two_of_four(tf.constant([[0.5, 2.0, -1.0, 1.0]])).numpy()
        array([[0., 1., 0., 1.]], dtype=float32)

    References:
        Huangfu, Hall, "Parallelizing the dual revised simplex method", 2018 (HiGHS). Mulamba et
        al., "Contrastive Losses and Solution Caching for Predict-and-Optimize", IJCAI 2021.
    """

    supports_jit = False

    def __init__(
        self,
        matrix,
        upper=None,
        lower=None,
        relax: bool = False,
        ties: str = "lowest",
        solve_ratio: float = 1.0,
        threads: bool = True,
    ):
        if hasattr(matrix, "toarray"):
            matrix = matrix.toarray()
        self.matrix = np.asarray(matrix, np.float64)
        if self.matrix.ndim != 2 or not np.isfinite(self.matrix).all():
            raise ValueError(
                f"Expected a finite `matrix` [m, n]; received shape {self.matrix.shape}."
            )
        self.upper = _bounds(upper, np.inf, len(self.matrix), "upper")
        self.lower = _bounds(lower, -np.inf, len(self.matrix), "lower")
        if not 0 < solve_ratio <= 1:
            raise ValueError(f"Expected `solve_ratio` in (0, 1]; received {solve_ratio!r}.")
        self.relax, self.ties = check_bool(relax, "relax"), check_ties(ties)
        self.threads = check_bool(threads, "threads")
        self.solve_ratio = float(solve_ratio)
        self._generator = np.random.default_rng(0)
        self._seen = np.zeros([0, self.matrix.shape[1]])
        _scipy_milp()

    def __call__(
        self,
        scores: tf.Tensor,  # [B, n]
    ) -> tf.Tensor:
        scores = check_scores(scores, (self.matrix.shape[1],), "MILP")
        return solve_in_python(self._solve_batch, scores)

    @functools.cached_property
    def exact(self) -> "MILP":
        """The same solver, of all examples."""
        if self.solve_ratio == 1.0:
            return self
        return MILP(**{**self.get_config(), "solve_ratio": 1.0})

    def get_config(self) -> dict:
        return {
            "matrix": self.matrix.tolist(),
            "upper": None if np.isinf(self.upper).all() else self.upper.tolist(),
            "lower": None if np.isinf(self.lower).all() else self.lower.tolist(),
            "relax": self.relax,
            "ties": self.ties,
            "solve_ratio": self.solve_ratio,
            "threads": self.threads,
        }

    def _solve_batch(self, batch):
        if self.solve_ratio == 1.0:
            return one_by_one(self._solve_one, batch, self.threads)
        solved = self._generator.random(len(batch)) < self.solve_ratio
        if not len(self._seen):
            solved[:1] = True
        code = np.empty_like(batch)
        code[solved] = one_by_one(self._solve_one, batch[solved], self.threads)
        self._seen = np.unique(np.concatenate([self._seen, code[solved]]), axis=0)
        code[~solved] = self._seen[(batch[~solved] @ self._seen.T).argmax(axis=1)]
        return code

    def _solve_one(self, scores):
        scores = scaled_for_highs(scores.astype(np.float64))
        code = self._programme(scores, [])
        if self.ties == "any":
            return code
        for i in range(len(code)):
            if code[i]:
                other = self._programme(scores, [*code[:i], 0.0])
                if other is not None and scores @ other >= scores @ code:
                    code = other
        return code

    def _programme(self, scores, known):
        """The best of the z that begin with the bits `known`; None where there is none."""
        milp, bounds, constraint = _scipy_milp()
        lowest, highest = np.zeros(len(scores)), np.ones(len(scores))
        lowest[: len(known)] = highest[: len(known)] = known
        result = milp(
            -scores,
            integrality=np.full(len(scores), 0 if self.relax else 1),
            bounds=bounds(lowest, highest),
            constraints=constraint(self.matrix, self.lower, self.upper),
            options={"mip_rel_gap": 0.0},
        )
        if known and result.status == 2:  # Infeasible.
            return None
        if not result.success:
            raise RuntimeError(
                f"Expected HiGHS to solve the programme of {len(scores)} variables; received "
                f"status {result.status}: {result.message}. Check the bounds."
            )
        code = np.round(result.x)
        if self.relax and np.abs(code - result.x).max() > 1e-6:
            raise RuntimeError(
                "Expected a linear programme whose solutions are 0/1; received a solution with "
                f"entry {result.x[np.abs(code - result.x).argmax()]:.3f}. Give relax=False."
            )
        return code


def _bounds(values, missing, count, name):
    values = np.asarray(missing if values is None else values, np.float64)
    if values.shape not in ((), (count,)) or np.isnan(values).any():
        raise ValueError(
            f"Expected `{name}` to be a number or {count} of them, one a row of the matrix; "
            f"received shape {values.shape}."
        )
    return np.broadcast_to(values, [count])


def _scipy_milp():
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
    except ImportError as error:
        raise ImportError(
            "MILP needs SciPy; please `pip install tf_direct_opt[solvers]`."
        ) from error
    return milp, Bounds, LinearConstraint
