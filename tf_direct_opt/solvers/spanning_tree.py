"""Spanning trees of the complete undirected graph."""

import numpy as np
import tensorflow as tf

from tf_direct_opt.checks import check_count
from tf_direct_opt.solvers.base import check_scores


class SpanningTree:
    """argmax over spanning trees of the complete graph on m nodes of the sum of edge scores.

    Scores and code [B, m (m - 1) / 2], the edges in the order of
    `itertools.combinations(range(m), 2)`. Any sign: a tree has m - 1 edges whatever they score.
    Among equal scores the lower edge is preferred, so that ties go to the tree whose sorted edges
    come first. Prim's algorithm, O(m^2 log m) an example, TensorFlow, in m - 1 steps.

    Args:
        num_nodes: m, at least 1.

    Raises:
        ValueError: m out of range; scores of another shape.
        tf.errors.InvalidArgumentError: scores that are not finite.

    Example:
        >>> SpanningTree(3)(tf.constant([[1.0, 3.0, 2.0]])).numpy()
        array([[0., 1., 1.]], dtype=float32)

    References:
        Prim, Bell System Technical Journal, 1957.
    """

    supports_jit = True

    def __init__(self, num_nodes: int):
        self.num_nodes = check_count(num_nodes, "num_nodes", 1)

    def __call__(
        self,
        scores: tf.Tensor,  # [B, m (m - 1) / 2]
    ) -> tf.Tensor:
        m = self.num_nodes
        num_edges = m * (m - 1) // 2
        scores = check_scores(scores, (num_edges,), "SpanningTree")
        if m == 1:
            return scores
        # Ranks order the edges strictly, the lower of two equal ones above the other; under a
        # strict order the tree is unique, so that it does not matter where it starts to grow.
        ranks = num_edges - tf.argsort(tf.argsort(scores, direction="DESCENDING", stable=True))
        edge_of = np.zeros([m, m], np.int32)
        edge_of[np.triu_indices(m, 1)] = np.arange(num_edges)
        edge_of += edge_of.T
        ranks = tf.gather(ranks, edge_of, axis=1) * (1 - np.eye(m, dtype=np.int32))  # [B, m, m]

        def grow(code, best, parent, inside):  # [B, E], [B, m] each
            node = tf.argmax(tf.where(inside, -1, best), axis=-1, output_type=tf.int32)
            one_hot = tf.one_hot(node, m, on_value=True, off_value=False)
            from_node = tf.gather(parent, node, batch_dims=1)
            edge = tf.gather(tf.reshape(edge_of, [-1]), from_node * m + node)
            code += tf.one_hot(edge, num_edges, dtype=code.dtype)
            row = tf.gather(ranks, node, batch_dims=1)
            parent = tf.where(row > best, node[:, tf.newaxis], parent)
            return code, tf.maximum(best, row), parent, inside | one_hot

        start = tf.zeros_like(ranks[:, 0])
        inside = start + tf.one_hot(0, m, dtype=tf.int32) > 0
        code, *_ = tf.while_loop(
            lambda *_: True,
            grow,
            (tf.zeros_like(scores), ranks[:, 0], start, inside),
            maximum_iterations=m - 1,
        )
        return code

    def get_config(self) -> dict:
        return {"num_nodes": self.num_nodes}
