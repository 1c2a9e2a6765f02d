"""Binary variables with non-negative pairwise terms: the best configuration is a minimal cut."""

import numpy as np
import tensorflow as tf

from tf_direct_opt import binary
from tf_direct_opt.checks import check_count
from tf_direct_opt.solvers.base import check_scores, one_by_one, solve_in_python


class PairwiseBinaryMaxFlow:
    """argmax over z in {0, 1}^n of sum_i h_i z_i + sum_{i<j} h_ij z_i z_j with h_ij >= 0.

    Layout of scores and code as in `PairwiseBinary`; any n. With h_ij z_i z_j =
    h_ij z_i - h_ij z_i (1 - z_j) the maximum is a minimal cut: z_i = 1 on the side of the sink.
    The optima form a lattice, and the least set of nodes on that side is its lowest element, so
    ties go to the lowest configuration. The flow is computed in float64, exactly as long as the
    magnitudes of the scores lie within a factor of about 2^29 of each other.

    In Python through PyMaxflow, which is GPL and therefore an extra of its own
    (`pip install tf_direct_opt[maxflow]`).

    Args:
        num_variables: n, at least 1.

    Raises:
        ImportError: PyMaxflow is missing.
        ValueError: n out of range; scores of another shape; a negative coupling (in graph mode
            tf.errors.InvalidArgumentError with the same text).
        tf.errors.InvalidArgumentError: scores that are not finite.

    Example:
        >>> solver = PairwiseBinaryMaxFlow(2)
        >>> solver(tf.constant([[-1.0, -1.0, 3.0], [1.0, -1.0, 0.5]])).numpy()
        array([[1., 1., 1.], [1., 0., 0.]], dtype=float32)

    References:
        Greig, Porteous, Seheult, JRSS B, 1989; Boykov, Kolmogorov, IEEE TPAMI, 2004.
    """

    supports_jit = False

    def __init__(self, num_variables: int):
        self.num_variables = check_count(num_variables, "num_variables", 1)
        try:
            import maxflow
        except ImportError as error:
            raise ImportError(
                "PairwiseBinaryMaxFlow needs PyMaxflow (GPL); please "
                "`pip install tf_direct_opt[maxflow]`, or use PairwiseBinary (n <= 20) or "
                "PairwiseBinaryMILP."
            ) from error
        self._graph = maxflow.GraphFloat

    def __call__(
        self,
        scores: tf.Tensor,  # [B, n (n + 1) / 2]
    ) -> tf.Tensor:
        size = binary.num_statistics(self.num_variables)
        scores = check_scores(scores, (size,), "PairwiseBinaryMaxFlow")
        return solve_in_python(self._solve_batch, scores)

    def get_config(self) -> dict:
        return {"num_variables": self.num_variables}

    def _solve_batch(self, batch):
        least = batch[:, self.num_variables :].min(initial=0.0)
        if least < 0:
            raise ValueError(
                "Expected couplings of at least 0 for PairwiseBinaryMaxFlow; received one of "
                f"{least}. Make them non-negative (softplus) and perturb the unary scores only, or "
                "use PairwiseBinary (n <= 20) or PairwiseBinaryMILP, which take any sign."
            )
        return one_by_one(self._solve_one, batch)

    def _solve_one(self, scores):
        n = self.num_variables
        first, second = np.triu_indices(n, 1)
        couplings = scores[n:].astype(np.float64)
        unaries = scores[:n] + np.bincount(first, couplings, minlength=n)
        graph = self._graph(n, len(couplings))
        nodes = graph.add_nodes(n)
        graph.add_edges(second, first, couplings, np.zeros_like(couplings))
        graph.add_grid_tedges(nodes, np.maximum(-unaries, 0.0), np.maximum(unaries, 0.0))
        graph.maxflow()
        # A node that belongs to neither tree is reported on the side of the source, so that the
        # side of the sink is the least one.
        bits = graph.get_grid_segments(nodes).astype(np.float64)
        return np.concatenate([bits, bits[first] * bits[second]])
