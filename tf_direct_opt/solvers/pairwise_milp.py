"""Binary variables with pairwise terms of any sign, of any number: an integer programme."""

import numpy as np
import tensorflow as tf

from tf_direct_opt import binary
from tf_direct_opt.checks import check_count
from tf_direct_opt.solvers.base import (
    check_scores,
    check_ties,
    one_by_one,
    scaled_for_highs,
    solve_in_python,
)


class PairwiseBinaryMILP:
    """argmax over z in {0, 1}^n of sum_i h_i z_i + sum_{i<j} h_ij z_i z_j, any sign, any n.

    Layout of scores and code as in `PairwiseBinary`. The products become variables of their own,
    y_ij <= z_i, y_ij <= z_j where h_ij > 0 and y_ij >= z_i + z_j - 1 where h_ij < 0, and HiGHS
    solves the integer programme to a gap of zero, up to 1e-10 of the greatest score. NP-hard: the
    time grows fast with n where couplings are negative.

    In Python, in threads, through `scipy.optimize.milp`; needs SciPy
    (`pip install tf_direct_opt[solvers]`).

    Args:
        num_variables: n, at least 1.
        ties: "lowest", as every solver: of equal configurations the lowest, for which one more
            and smaller programme is solved for each z_i = 1; or "any", one of them in which no
            single z_i can be lowered at no cost: several times as fast, and the same wherever
            noise leaves no ties.

    Raises:
        ImportError: SciPy is missing.
        ValueError: n or `ties` out of range; scores of another shape.
        RuntimeError: HiGHS gave up (in graph mode tf.errors.UnknownError with the same text).
        tf.errors.InvalidArgumentError: scores that are not finite.

    Example:
        >>> solver = PairwiseBinaryMILP(2)
        >>> solver(tf.constant([[-1.0, -1.0, 3.0], [1.0, 2.0, -5.0]])).numpy()
        array([[1., 1., 1.], [0., 1., 0.]], dtype=float32)

    References:
        Huangfu, Hall, "Parallelizing the dual revised simplex method", 2018 (HiGHS).
    """

    supports_jit = False

    def __init__(self, num_variables: int, ties: str = "lowest"):
        self.num_variables = check_count(num_variables, "num_variables", 1)
        self.ties = check_ties(ties)
        try:
            import scipy.optimize  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "PairwiseBinaryMILP needs SciPy; please `pip install tf_direct_opt[solvers]`."
            ) from error

    def __call__(
        self,
        scores: tf.Tensor,  # [B, n (n + 1) / 2]
    ) -> tf.Tensor:
        size = binary.num_statistics(self.num_variables)
        scores = check_scores(scores, (size,), "PairwiseBinaryMILP")
        return solve_in_python(
            lambda batch: one_by_one(self._solve_one, batch, threads=True), scores
        )

    def get_config(self) -> dict:
        return {"num_variables": self.num_variables, "ties": self.ties}

    def _solve_one(self, scores):
        n = self.num_variables
        scores = scaled_for_highs(scores.astype(np.float64))
        first, second = np.triu_indices(n, 1)
        bits = np.zeros(n)
        if np.any(scores):
            unaries, couplings = scores[:n], np.zeros([n, n])
            couplings[first, second] = scores[n:]

            def value(bits):
                return unaries @ bits + bits @ couplings @ bits

            bits = self._programme(scores, first, second, [])
            for i in range(n):
                if not bits[i]:
                    continue
                lower = np.where(np.arange(n) == i, 0.0, bits)
                if self.ties == "lowest" and value(lower) < value(bits):
                    lower = self._programme(scores, first, second, [*bits[:i], 0.0])
                if value(lower) >= value(bits):
                    bits = lower
        return np.concatenate([bits, bits[first] * bits[second]])

    def _programme(self, scores, first, second, known):
        """The best bits [n] of those that begin with the bits `known`."""
        # Here, as a module kept as an attribute can be neither copied nor pickled.
        from scipy import optimize, sparse

        n = self.num_variables
        used = np.flatnonzero(scores[n:])
        couplings, first, second = scores[n:][used], first[used], second[used]
        above, below = np.flatnonzero(couplings > 0), np.flatnonzero(couplings < 0)

        # Rows z_i - y >= 0 and z_j - y >= 0 for a positive coupling, y - z_i - z_j >= -1 for a
        # negative one; the other side of each holds by itself at the maximum.
        num_rows = 2 * len(above) + len(below)
        row_of = np.arange(num_rows)
        up, down = row_of[: 2 * len(above)], row_of[2 * len(above) :]
        blocks = (
            (up, np.concatenate([first[above], second[above]]), 1.0),
            (up, np.concatenate([n + above, n + above]), -1.0),
            (down, n + below, 1.0),
            (down, first[below], -1.0),
            (down, second[below], -1.0),
        )
        rows = np.concatenate([block[0] for block in blocks])
        columns = np.concatenate([block[1] for block in blocks])
        values = np.concatenate([np.full(len(block[0]), block[2]) for block in blocks])
        size = n + len(couplings)
        matrix = sparse.csr_array((values, (rows, columns)), shape=(num_rows, size))
        least = np.repeat([0.0, -1.0], [len(up), len(down)])
        lowest, highest = np.zeros(size), np.ones(size)
        lowest[: len(known)] = highest[: len(known)] = known
        result = optimize.milp(
            -np.concatenate([scores[:n], couplings]),
            integrality=np.repeat([1, 0], [n, len(couplings)]),
            bounds=optimize.Bounds(lowest, highest),
            constraints=optimize.LinearConstraint(matrix, least, np.inf) if num_rows else None,
            options={"mip_rel_gap": 0.0},
        )
        if not result.success:
            raise RuntimeError(
                f"Expected HiGHS to solve the integer programme of {n} variables; received status "
                f"{result.status}: {result.message}. Use fewer variables, or weaker couplings."
            )
        return np.round(result.x[:n])
