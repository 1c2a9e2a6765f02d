"""Subsets of k of n elements."""

import math

import numpy as np
import tensorflow as tf

from tf_direct_opt import binary, solvers
from tf_direct_opt.checks import check_count
from tf_direct_opt.perturbation import perturbed_argmax
from tf_direct_opt.posteriors import loops, top_down
from tf_direct_opt.posteriors.base import check_codes, check_shape
from tf_direct_opt.posteriors.trellis import IMPOSSIBLE, Trellis


class KSubset(Trellis):
    """q(z) = exp(sum_i h_i z_i - log Z) over z in {0, 1}^n with sum_i z_i = k.

    n independent bits, given that k of them are 1. The mass of all ways to take j more of the
    last elements is a recursion in O(n k), and marginals, entropy and draws, with or without
    replacement, follow from it. Codes are one-hots of the bits, [.., n, 2].

    Args:
        logits: h [B, n], nats; a constant added to all of them changes nothing but log Z.
        num_variables: n.
        k: size of the subset, 1 <= k < n.

    Raises:
        ValueError: n or k out of range; logits of another shape.

    Example:
        >>> subsets = posteriors.KSubset(tf.zeros([1, 4]), num_variables=4, k=2)
        >>> subsets.log_partition().numpy().round(3)  # log 6
        array([1.792], dtype=float32)

    References:
        Ahmed, Zeng, Niepert, Van den Broeck, "SIMPLE: a gradient estimator for k-subset sampling",
        ICLR 2023.
    """

    num_categories = 2

    def __init__(
        self,
        logits: tf.Tensor,  # [B, n]
        num_variables: int,
        k: int,
    ):
        self.parameters = tf.convert_to_tensor(logits)
        shape = self.parameter_shape(num_variables, k)
        check_shape(self.parameters.shape, shape, f"the subsets of {k} of {num_variables}")
        self.num_variables = num_variables
        self.k = k
        self.start = k  # The state: how many are still to be taken.

    @classmethod
    def parameter_shape(cls, num_variables: int, k: int) -> tuple[int, ...]:
        n = check_count(num_variables, "num_variables", 2)
        check_count(k, "k", 1, n - 1)
        return (n,)

    @property
    def num_configurations(self):
        return math.comb(self.num_variables, self.k)

    def configurations(self, index):
        """Codes [M, n, 2] of the subsets in the order of their bits, the first the slowest."""
        self._check_numbers(index.dtype)
        left, bits = tf.fill(tf.shape(index), tf.constant(self.k, index.dtype)), []
        for row in _num_subsets(self.num_variables, self.k):
            without = tf.gather(tf.constant(row, index.dtype), left)
            take = tf.cast(index >= without, index.dtype)
            index, left = index - take * without, left - take
            bits.append(take)
        return binary.one_hot(tf.cast(tf.stack(bits, axis=-1), tf.float32))

    def index(self, codes):
        self._check_numbers(tf.int32)
        bits = tf.cast(codes[..., 1], tf.int32)
        left = self.k - tf.cumsum(bits, axis=-1, exclusive=True)
        table = tf.constant(_num_subsets(self.num_variables, self.k), tf.int32)
        places = tf.range(self.num_variables) * (self.k + 1) + left
        return tf.reduce_sum(bits * tf.gather(tf.reshape(table, [-1]), places), axis=-1)

    def mode(self):
        solver = solvers.TopK(self.k)
        _, bits = perturbed_argmax(self._wide, tf.zeros_like(self._wide), solver)
        return binary.one_hot(tf.cast(bits, tf.float32))

    def score(self, codes):
        check_codes(codes)
        return tf.linalg.matvec(tf.cast(codes[..., 1], self._wide.dtype), self._wide)

    def _messages(self, parameters):
        # A constant would be in every mass, and round it; the k-th largest is of those that count,
        # whatever is excluded or all but certain.
        shared = tf.stop_gradient(tf.math.top_k(parameters, self.k).values[:, -1])
        parameters -= shared[:, tf.newaxis]
        batch = tf.shape(parameters)[0]
        impossible = tf.constant(IMPOSSIBLE, parameters.dtype)
        lowest = tf.fill([batch, 1], impossible)
        # Log-mass of all ways to take j = 0..k more of no element at all.
        last = tf.concat([tf.zeros_like(lowest), tf.fill([batch, self.k], impossible)], axis=1)

        def step(after, here):
            taken = tf.concat([lowest, here[:, tf.newaxis] + after[0][:, :-1]], axis=1)
            options = tf.stack([after[0], taken], axis=-1)  # [B, k + 1, 2]
            mass = tf.maximum(tf.reduce_logsumexp(options, axis=-1), impossible)
            choices = top_down.log_probs(options)
            return mass, tf.where(options > 0.5 * impossible, choices, impossible)

        start = (last, tf.zeros([batch, self.k + 1, 2], parameters.dtype))
        mass, choices = loops.scan(step, tf.transpose(parameters), start, reverse=True)
        return mass[0, :, self.k] + self.k * shared, choices

    @staticmethod
    def _move(state, choice):
        return tf.maximum(state - choice, 0)  # Below 0 only where nothing is.

    @staticmethod
    def _arrivals(joint):
        left, taken = tf.unstack(joint, axis=-1)
        return left + tf.pad(taken[:, 1:], [[0, 0], [0, 1]])


def _num_subsets(n, k):
    """C(n - 1 - i, j) for i < n and j <= k: subsets without element i, of those after it.

    Those that no subset asks for, beyond C(n, k), stand as that: they need not fit the integers.
    """
    total = math.comb(n, k)
    return np.array([[min(math.comb(n - 1 - i, j), total) for j in range(k + 1)] for i in range(n)])
