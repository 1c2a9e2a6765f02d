"""Bipartite matching: each row one column, each column one row."""

import numpy as np
import tensorflow as tf

from tf_direct_opt.solvers.base import check_scores, one_by_one, solve_in_python


class Assignment:
    """argmax over permutations p of sum_i h[i, p(i)]; the code is the permutation matrix.

    Scores and code [B, n, n]. Ties go to the lowest sequence p(1), p(2), .. of columns. O(n^3) an
    example, in Python through `scipy.optimize.linear_sum_assignment` in float64; needs SciPy
    (`pip install tf_direct_opt[solvers]`).

    Raises:
        ImportError: SciPy is missing.
        ValueError: scores that are not square.
        tf.errors.InvalidArgumentError: scores that are not finite.

    Example:
        >>> Assignment()(tf.constant([[[1.0, 2.0], [0.0, 2.0]]])).numpy()
        array([[[1., 0.], [0., 1.]]], dtype=float32)

    References:
        Crouse, "On implementing 2D rectangular assignment algorithms", IEEE TAES, 2016.
    """

    supports_jit = False

    def __init__(self):
        try:
            from scipy.optimize import linear_sum_assignment
        except ImportError as error:
            raise ImportError(
                "Assignment needs SciPy; please `pip install tf_direct_opt[solvers]`."
            ) from error
        self._solve = linear_sum_assignment

    def __call__(
        self,
        scores: tf.Tensor,  # [B, n, n]
    ) -> tf.Tensor:
        scores = tf.convert_to_tensor(scores)
        size = scores.shape[-1] if scores.shape.rank else None
        scores = check_scores(scores, (size, size), "Assignment")
        return solve_in_python(self._solve_batch, scores)

    def _solve_batch(self, batch):
        batch = batch.astype(np.float64)
        code = one_by_one(self._permutation, batch)
        for index in np.flatnonzero(_has_ties(batch, code)):
            code[index] = self._lowest(batch[index], code[index])
        return code

    def _permutation(self, scores):
        code = np.zeros_like(scores)
        code[self._solve(scores, maximize=True)] = 1.0
        return code

    def _lowest(self, scores, code):
        """The lowest permutation with the score of `code`: the first rows are settled first."""
        column = code.argmax(axis=-1)
        size = len(scores)
        for row in range(size):
            rest = np.sort(column[row:])
            value = scores[np.arange(row, size), column[row:]].sum()
            for candidate in rest[rest < column[row]]:
                others = rest[rest != candidate]
                block = scores[np.ix_(np.arange(row + 1, size), others)]
                rows, chosen = self._solve(block, maximize=True)
                if scores[row, candidate] + block[rows, chosen].sum() >= value:
                    column[row], column[row + 1 :] = candidate, others[chosen]
                    break
        return np.eye(size)[column]


def _has_ties(scores, code):
    """Whether another permutation scores as much as the best one, [B].

    Row i that takes the column of row j loses w_ij >= .. the other rows' gains: permutations are
    disjoint cycles in the graph with these weights, no cycle is negative, and one of weight zero
    is a tie. Potentials d with w_ij + d_i - d_j >= 0 (Bellman-Ford, for the whole batch; a few
    rounds as a rule) turn that into a cycle of edges that are zero.
    """
    size = scores.shape[-1]
    loss = (scores * code).sum(-1)[..., np.newaxis] - scores @ np.swapaxes(code, -1, -2)
    potential = np.zeros(scores.shape[:2])
    for _ in range(size):
        lower = np.min(potential[..., np.newaxis] + loss, axis=1, initial=0.0)
        if np.array_equal(lower, potential):
            break
        potential = lower
    reduced = loss + potential[..., np.newaxis] - potential[:, np.newaxis]
    tight = (reduced <= 0.0) & ~np.eye(size, dtype=bool)
    # A node without a tight edge onwards is on no cycle; what is left at the end has one.
    alive = np.ones(scores.shape[:2], bool)
    for _ in range(size):
        onwards = alive & (tight & alive[:, np.newaxis]).any(axis=-1)
        if np.array_equal(onwards, alive):
            break
        alive = onwards
    return alive.any(axis=-1)
