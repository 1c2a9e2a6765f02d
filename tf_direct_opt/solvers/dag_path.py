"""Paths through any directed acyclic graph, by dynamic programming over its edges."""

import numpy as np
import tensorflow as tf

from tf_direct_opt.checks import check_count
from tf_direct_opt.solvers.base import check_scores

# So many paths are looked at all at once, which on the CPU is faster than step by step.
_FEW_PATHS = 300


class DagPath:
    """argmax over paths from a source to a target of the sum of the scores of their edges.

    Scores and code [B, E], one a edge in the order given; the code is 1 on the edges of the path.
    For a path of least cost, scores are negated costs. The graph has no cycles, so that scores
    may have any sign, which perturbed scores have.

    Ties go to the lowest sequence of edges. O(E) an example, TensorFlow, in as many steps as the
    longest path has edges; in one step where there are few paths, such as in a 5 x 5 grid.

    Args:
        edges: pairs (tail, head) of nodes, integers from 0.
        source: node where paths begin; None takes the only node without an edge into it.
        target: node where they end; None takes the only node without an edge out of it.

    Raises:
        ValueError: a cycle, several sources or targets, or no path; scores of another shape.
        tf.errors.InvalidArgumentError: scores that are not finite.

    Example:
        >>> shortest = DagPath([(0, 1), (0, 2), (1, 3), (2, 3)])
        >>> shortest(-tf.constant([[1.0, 5.0, 1.0, 0.0]])).numpy()
        array([[1., 0., 1., 0.]], dtype=float32)
    """

    supports_jit = True

    def __init__(self, edges, source: int | None = None, target: int | None = None):
        edges = np.asarray(edges)
        pairs = edges.ndim == 2 and edges.shape[1] == 2 and len(edges) > 0
        if not pairs or not np.issubdtype(edges.dtype, np.integer):
            raise ValueError(
                f"Expected `edges` to be pairs of integers; received an array of shape "
                f"{edges.shape}, {edges.dtype}."
            )
        if edges.min() < 0:
            raise ValueError(f"Expected nodes from 0; received {edges.min()} in `edges`.")
        self.edges = [(int(tail), int(head)) for tail, head in edges]
        tails, heads = set(edges[:, 0].tolist()), set(edges[:, 1].tolist())
        self.source = _only(tails - heads, "source") if source is None else _node(source, "source")
        self.target = _only(heads - tails, "target") if target is None else _node(target, "target")
        self._plan()

    def __call__(
        self,
        scores: tf.Tensor,  # [B, E]
    ) -> tf.Tensor:
        num_edges = len(self.edges)
        scores = check_scores(scores, (num_edges,), "DagPath")
        if self._paths is not None:
            edges, codes = self._paths
            scores_of = tf.pad(tf.transpose(scores), [(0, 1), (0, 0)])
            values = tf.reduce_sum(tf.gather(scores_of, edges), axis=1)  # [paths, B]
            return tf.gather(tf.cast(codes, scores.dtype), tf.argmax(values, axis=0))
        # An edge more, which is never the best, fills up the tables of edges.
        scores_of = tf.pad(tf.transpose(scores), [(0, 1), (0, 0)], constant_values=-float("inf"))
        batch = tf.shape(scores)[0]

        # Values to the target, [nodes so far, B], from the target back to the source.
        to_go = tf.zeros([1, batch], scores.dtype)
        best_edges = [tf.fill([1, batch], num_edges)]
        for edges, heads in self._levels:  # [nodes of the level, out-degree]
            values = tf.gather(scores_of, edges) + tf.gather(to_go, heads)
            best = tf.argmax(values, axis=1, output_type=tf.int32)
            best_edges.append(tf.gather(edges, best, batch_dims=1))
            to_go = tf.concat([to_go, tf.reduce_max(values, axis=1)], axis=0)
        best_edge = tf.transpose(tf.concat(best_edges, axis=0))  # [B, nodes]

        node = tf.fill([batch], self._start)
        taken = []
        for _ in self._levels:
            taken.append(tf.gather(best_edge, node, batch_dims=1))
            node = tf.gather(self._head_of, taken[-1])
        if not taken:
            return tf.zeros_like(scores)
        taken = tf.stack(taken, axis=1)  # [B, steps]
        rows = tf.broadcast_to(tf.range(batch)[:, tf.newaxis], tf.shape(taken))
        code = tf.scatter_nd(
            tf.stack([rows, taken], axis=-1),
            tf.cast(taken < num_edges, scores.dtype),
            tf.stack([batch, num_edges + 1]),
        )
        return tf.ensure_shape(code[:, :num_edges], scores.shape)

    def get_config(self) -> dict:
        edges = [list(edge) for edge in self.edges]  # As JSON has them.
        return {"edges": edges, "source": self.source, "target": self.target}

    def _plan(self):
        """Tables of the edges, level by level: a node's level is its longest way to the target."""
        out_edges = {}
        for edge, (tail, _) in enumerate(self.edges):
            out_edges.setdefault(tail, []).append(edge)
        level_of, reaches = _levels(self.edges, out_edges, self.source, self.target)
        if not reaches[self.source]:
            raise ValueError(
                f"Expected a path from node {self.source} to node {self.target}; received a graph "
                "without one."
            )
        nodes = sorted((node for node in reaches if reaches[node]), key=level_of.get)
        place = {node: index for index, node in enumerate(nodes)}
        pad = len(self.edges)
        self._levels = []
        for level in range(1, level_of[self.source] + 1):
            chosen = [
                [edge for edge in out_edges[node] if reaches.get(self.edges[edge][1])]
                for node in nodes
                if level_of[node] == level
            ]
            width = max(map(len, chosen))
            table = np.array([row + [pad] * (width - len(row)) for row in chosen], np.int32)
            heads = [[place[self.edges[e][1]] if e < pad else 0 for e in row] for row in table]
            self._levels.append((table, np.array(heads, np.int32)))
        self._start = place[self.source]
        heads = [place.get(head, 0) for _, head in self.edges]
        self._head_of = np.array([*heads, 0], np.int32)  # From the target on, the target.
        self._paths = self._few_paths(out_edges, reaches)

    def _few_paths(self, out_edges, reaches):
        """All paths if they are few: their edges [paths, steps], and their codes [paths, E]."""
        paths, done = [((), self.source)], []
        while paths:
            path, node = paths.pop()
            if node == self.target:
                done.append(path)
                continue
            if len(paths) + len(done) > _FEW_PATHS:
                return None
            # The lowest edge comes off the stack first, so that ties go to it.
            for edge in reversed(out_edges[node]):
                if reaches.get(self.edges[edge][1]):
                    paths.append(((*path, edge), self.edges[edge][1]))
        pad = len(self.edges)
        steps = max(map(len, done))
        edges = np.array([[*path, *[pad] * (steps - len(path))] for path in done], np.int32)
        codes = np.zeros([len(done), pad + 1], np.float32)
        np.put_along_axis(codes, edges, 1.0, axis=1)
        return edges.reshape(len(done), steps), codes[:, :pad]


def grid_edges(height: int, width: int) -> list[tuple[int, int]]:
    """Edges to the right and down between height x width nodes, which are numbered row by row.

    Row by row: first the edges to the right within the row, then those down to the next.
    """
    edges = []
    for row in range(check_count(height, "height", 1)):
        first = row * check_count(width, "width", 1)
        edges += [(node, node + 1) for node in range(first, first + width - 1)]
        if row + 1 < height:
            edges += [(node, node + width) for node in range(first, first + width)]
    return edges


def _levels(edges, out_edges, source, target):
    """`(level, reaches target)` of every node that is reached from the source; depth first."""
    level, reaches, open_nodes, stack = {target: 0}, {target: True}, set(), [source]
    while stack:
        node = stack[-1]
        heads = [edges[edge][1] for edge in out_edges.get(node, ())]
        unknown = [head for head in heads if head not in reaches]
        if node in reaches or not unknown:
            stack.pop()
            open_nodes.discard(node)
            if node not in reaches:
                onwards = [head for head in heads if reaches[head]]
                reaches[node] = bool(onwards)
                level[node] = 1 + max((level[head] for head in onwards), default=0)
            continue
        open_nodes.add(node)
        if open_nodes.intersection(unknown):
            raise ValueError(
                "Expected a graph without cycles; received one through node "
                f"{min(open_nodes.intersection(unknown))}. GridPath takes grids with free moves."
            )
        stack.extend(reversed(unknown))
    return level, reaches


def _only(nodes, name):
    if len(nodes) != 1:
        raise ValueError(
            f"Expected one {name} in the graph; received the nodes {sorted(nodes)}. Give `{name}`."
        )
    return nodes.pop()


def _node(value, name):
    return check_count(value, name, 0)
