"""Paths through a grid, from corner to corner, by dynamic programming."""

import tensorflow as tf

from tf_direct_opt.checks import check_bool
from tf_direct_opt.solvers.base import check_scores


class ShortestPath:
    """argmax over monotone paths of the sum of the scores of the cells they visit.

    A path leads from the first cell to the last one, moving right or down, or diagonally (right
    and down at once) with `diagonal=True`. For a path of least cost, scores are negated costs.
    Scores and code [B, H, W]; the code is 1 in the visited cells.

    Monotone moves make the grid acyclic, so that the dynamic programme is exact for scores of any
    sign, which perturbed scores have. With free moves the highest-scoring simple path contains
    the Hamiltonian path and is NP-hard, and paths that may repeat a cell have no maximum.

    Ties go to the lowest sequence of moves: right before down before diagonal. O(H W) an example,
    TensorFlow, in H + W - 1 steps.

    Args:
        diagonal: whether a path may also move diagonally.

    Raises:
        ValueError: scores without a static [H, W].
        tf.errors.InvalidArgumentError: scores that are not finite.

    Example:
        >>> costs = tf.constant([[[1.0, 9.0, 1.0], [1.0, 1.0, 1.0]]])
        >>> ShortestPath()(-costs).numpy()
        array([[[1., 0., 0.], [1., 1., 1.]]], dtype=float32)

    References:
        Vlastelica et al., "Differentiation of Blackbox Combinatorial Solvers", ICLR 2020, learn
        the costs of such grids (with free moves and non-negative costs).
    """

    supports_jit = True

    def __init__(self, diagonal: bool = False):
        self.diagonal = check_bool(diagonal, "diagonal")

    def __call__(
        self,
        scores: tf.Tensor,  # [B, H, W]
    ) -> tf.Tensor:
        scores = check_scores(scores, (None, None), "ShortestPath")
        height, width = scores.shape[1:]
        if not height or not width:
            raise ValueError(
                "Expected scores of a known shape [batch, height, width], at least 1 by 1, for "
                f"ShortestPath; received shape {scores.shape}. Reshape them to the grid."
            )
        # Shear the grid: column d holds the cells with row + column = d, [B, H] each, and
        # whatever lies outside of the grid is -inf.
        num_steps = height + width - 1
        columns = tf.unstack(_shear(scores, -float("inf")), axis=2)
        outside = tf.fill(tf.shape(columns[0]), tf.constant(-float("inf"), scores.dtype))
        moves, to_go = [], [outside, outside]  # best values from d + 2, d + 1 to the end
        for d in reversed(range(num_steps)):
            two_on, one_on = to_go
            right, down = one_on, _up(one_on, -float("inf"))
            diagonal = _up(two_on, -float("inf")) if self.diagonal else outside
            best = tf.maximum(tf.maximum(right, down), diagonal)
            take_right = right >= best
            take_down = ~take_right & (down >= best)
            moves.append([take_right, take_down, ~take_right & ~take_down])
            last = d == num_steps - 1
            to_go = [one_on, columns[d] if last else columns[d] + best]

        # Walk: a one-hot of the row at each step (none where a diagonal move skips it).
        start = tf.zeros_like(outside) + tf.one_hot(0, height, dtype=scores.dtype)
        visited, now, after = [], start, tf.zeros_like(outside)
        for step in reversed(moves):
            visited.append(now)
            right, down, diagonal = (now * tf.cast(move, scores.dtype) for move in step)
            now, after = after + right + _down(down), _down(diagonal)
        return _unshear(tf.stack(visited, axis=2), width)

    def get_config(self) -> dict:
        return {"diagonal": self.diagonal}


def _shear(grid, fill):
    """[B, H, W] -> [B, H, H + W - 1]: row i moves to the right by i."""
    _, height, width = grid.shape
    wide = tf.pad(grid, [(0, 0), (0, 0), (0, height)], constant_values=fill)
    flat = tf.reshape(wide, [-1, height * (height + width)])[:, :-height]
    return tf.reshape(flat, [-1, height, height + width - 1])


def _unshear(sheared, width):
    height = sheared.shape[1]
    flat = tf.reshape(sheared, [-1, height * (height + width - 1)])
    wide = tf.reshape(tf.pad(flat, [(0, 0), (0, height)]), [-1, height, height + width])
    return wide[:, :, :width]


def _up(rows, fill):
    """The value of the row below, [B, H]."""
    return tf.pad(rows[:, 1:], [(0, 0), (0, 1)], constant_values=fill)


def _down(rows):
    """What stood in a row moves to the row below."""
    return tf.pad(rows[:, :-1], [(0, 0), (1, 0)])
