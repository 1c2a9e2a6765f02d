"""Shortest paths through a grid with free moves, by Bellman-Ford over the whole grid at once."""

import itertools
import math

import tensorflow as tf

from tf_direct_opt.checks import check_bool
from tf_direct_opt.solvers.base import check_scores

COSTS = ("nodes", "edges")


class GridPath:
    """argmax over paths, with moves to all neighbours, of the sum of the scores they collect.

    A path leads from the first cell of the grid to the last, and may move up and to the left as
    well. Scores are negated costs, so at most 0: with positive ones the best path that repeats no
    cell is NP-hard, and one that may repeat them has no maximum. (`ShortestPath` and `DagPath`
    take scores of any sign.) Perturbed scores do get positive: `clip=True` takes those as 0.

    `costs="nodes"`: scores and code [B, H, W], the cells visited, the first and the last included.
    `costs="edges"`: [B, H, W, neighbours], the moves made: out of each cell, to its neighbours in
    the order of the grid, row by row. Moves out of the grid are not made.

    Ties go to the path with the fewest moves, of those to the lowest sequence of moves. TensorFlow;
    O(H W) an example and sweep, with as many sweeps as the best paths have moves at most.

    Args:
        costs: "nodes" or "edges".
        neighbours: 8, or 4 without diagonals.
        clip: whether positive scores count as 0 instead of being refused.

    Raises:
        ValueError: bad arguments, or scores without a static shape of that kind.
        tf.errors.InvalidArgumentError: scores that are not finite, or positive; XLA drops the
            check, and the code becomes NaN.

    Example:
        >>> costs = tf.constant([[[1.0, 9.0, 1.0], [1.0, 9.0, 1.0], [9.0, 1.0, 1.0]]])
        >>> GridPath()(-costs).numpy()
        array([[[1., 0., 0.], [1., 0., 0.], [0., 1., 1.]]], dtype=float32)

    References:
        Bellman, "On a Routing Problem", 1958; the problem is that of Vlastelica et al.,
        "Differentiation of Blackbox Combinatorial Solvers", ICLR 2020.
    """

    supports_jit = True

    def __init__(self, costs: str = "nodes", neighbours: int = 8, clip: bool = False):
        if costs not in COSTS:
            raise ValueError(f"Expected `costs` in {COSTS}; received {costs!r}.")
        if neighbours not in (4, 8):
            raise ValueError(f"Expected 4 or 8 `neighbours`; received {neighbours!r}.")
        self.costs, self.neighbours = costs, int(neighbours)
        self.clip = check_bool(clip, "clip")
        moves = [move for move in itertools.product((-1, 0, 1), repeat=2) if any(move)]
        self._moves = [move for move in moves if neighbours == 8 or 0 in move]

    def __call__(
        self,
        scores: tf.Tensor,  # [B, H, W] or [B, H, W, neighbours]
    ) -> tf.Tensor:
        edges = self.costs == "edges"
        event_shape = (None, None, self.neighbours) if edges else (None, None)
        scores = check_scores(scores, event_shape, "GridPath")
        height, width = scores.shape[1:3]
        if not height or not width:
            raise ValueError(
                "Expected scores of a known shape [batch, height, width, ..], at least 1 by 1, for "
                f"GridPath; received shape {scores.shape}. Reshape them to the grid."
            )
        allowed = scores <= 0.0
        if self.clip:
            scores = tf.minimum(scores, 0.0)
        else:
            tf.debugging.assert_equal(
                tf.reduce_all(allowed),
                True,
                "Expected scores of at most 0 for GridPath, negated costs; received positive ones. "
                "Negate the costs, or take them as 0 with clip=True",
            )

        # Half precision would lose the digits of long paths, their moves among them.
        dtype = scores.dtype
        if dtype.size < 4:
            scores = tf.cast(scores, tf.float32)
        zero, infinity = (tf.constant(value, scores.dtype) for value in (0.0, math.inf))

        # Cost and number of moves to the last cell; both settle within H W sweeps.
        last = tf.reshape(tf.one_hot(height * width - 1, height * width), [height, width])
        at_end = last > 0.0
        leave = -scores if edges else -scores[..., tf.newaxis]  # [B, H, W, moves or 1]
        end = tf.zeros_like(scores[..., 0]) if edges else -scores
        infinite = tf.fill(tf.shape(end), infinity)

        def sweep(to_go, num_moves):
            candidates = leave + self._of_neighbours(to_go)
            best = tf.reduce_min(candidates, axis=-1)
            tight = candidates == best[..., tf.newaxis]
            moves = tf.where(tight, self._of_neighbours(num_moves), infinity)
            fewest = 1.0 + tf.reduce_min(moves, axis=-1)
            return tf.where(at_end, end, best), tf.where(at_end, zero, fewest), moves

        def changes(changed, *_):
            return changed

        def body(_, to_go, num_moves):
            new, fewer, _ = sweep(to_go, num_moves)
            return tf.reduce_any((new != to_go) | (fewer != num_moves)), new, fewer

        start = (
            tf.constant(True),
            tf.where(at_end, end, infinite),
            tf.where(at_end, zero, infinite),
        )
        _, to_go, num_moves = tf.while_loop(
            changes, body, start, maximum_iterations=2 * height * width
        )
        # The lowest of the moves that are best and lead to a cell with one move less to go.
        _, _, moves = sweep(to_go, num_moves)
        best_move = tf.argmin(moves, axis=-1, output_type=tf.int32)
        code = self._walk(tf.reshape(best_move, [-1, height * width]), width)
        code = tf.cast(tf.reshape(code, tf.shape(scores)), dtype)
        axes = list(range(1, scores.shape.rank))
        valid = self.clip | tf.reduce_all(allowed, axis=axes, keepdims=True)
        return tf.ensure_shape(tf.where(valid, code, tf.constant(math.nan, dtype)), scores.shape)

    def get_config(self) -> dict:
        return {"costs": self.costs, "neighbours": self.neighbours, "clip": self.clip}

    def _of_neighbours(self, grid):
        """The values of the neighbours, [B, H, W] -> [B, H, W, moves], infinite out of the grid."""
        height, width = grid.shape[1:]
        padded = tf.pad(grid, [(0, 0), (1, 1), (1, 1)], constant_values=math.inf)
        return tf.stack(
            [padded[:, 1 + i : 1 + i + height, 1 + j : 1 + j + width] for i, j in self._moves],
            axis=-1,
        )

    def _walk(self, best_move, width):
        """0/1 of the cells, or of their moves, on the way from the first cell to the last."""
        num_cells = best_move.shape[1]
        steps = tf.constant([i * width + j for i, j in self._moves])
        edges = self.costs == "edges"
        size = num_cells * (self.neighbours if edges else 1)

        def body(cell, visited):
            move = tf.gather(best_move, cell, batch_dims=1)
            there = cell == num_cells - 1
            here = tf.one_hot(cell * self.neighbours + move if edges else cell, size)
            visited += tf.where(there[:, tf.newaxis], 0.0, here)
            return tf.where(there, cell, cell + tf.gather(steps, move)), visited

        cell = tf.zeros_like(best_move[:, 0])
        visited = tf.zeros([tf.shape(cell)[0], size])
        _, visited = tf.while_loop(
            lambda cell, _: tf.reduce_any(cell != num_cells - 1),
            body,
            (cell, visited),
            maximum_iterations=num_cells,
        )
        return visited if edges else visited + tf.one_hot(num_cells - 1, size)
