"""The Gibbs distribution of binary variables with pairwise potentials, exactly."""

import functools
import math
from typing import NamedTuple

import tensorflow as tf

from tf_direct_opt import binary, solvers
from tf_direct_opt.checks import check_bool, check_count
from tf_direct_opt.perturbation import (
    check_finite,
    nan_unless_finite,
    perturbed_argmax,
    sample_logistic,
)
from tf_direct_opt.posteriors import top_down
from tf_direct_opt.posteriors.base import Posterior, check_codes, check_shape
from tf_direct_opt.slopes import attach_slope

# Configurations of all examples of a chunk: 2 MB a tensor. At n = 15 chunks that stay in the cache
# take 12 ms, one chunk of a whole batch of 100 takes 17 (one core).
MAX_CONFIGURATIONS = 2**19


class PairwiseBinary(Posterior):
    """q(z) = exp(sum_i h_i z_i + sum_{i < j} h_ij z_i z_j - log Z),  z in {0, 1}^n.

    This is the law of z* under an independent Gumbel for every configuration (Theorem 2). Noise on
    the unary potentials only, which is what scales to max-flow, gives another one
    ("perturb-and-MAP"), whose density nobody can evaluate; the two agree where the couplings are 0.

    Everything is an enumeration of the 2^n configurations, a few examples at a time: n <= 20 runs
    in bounded memory. Without couplings everything but `gumbel_top_k` is a closed form, at any n.

    Args:
        potentials: [B, n + n (n - 1) / 2] = [unaries | pairs] as in `binary`, or [B, n] without
            couplings; nats.
        num_variables: n.
        couplings: whether there are pairs; None reads it off the potentials.
        solver: of the mode, scores -> statistics; None enumerates.
        unary_density: for coupled variables that are too many to enumerate. Draws, KL and all
            that a density is needed for are then those of the independent variables of the unary
            potentials: a distribution, but not the one that the couplings belong to.

    Raises:
        ValueError: potentials of another shape; more than 20 coupled variables.

    Example:
        >>> uniform = posteriors.PairwiseBinary(tf.constant([[0.0, 0.0, 0.0]]), num_variables=2)
        >>> uniform.log_partition().numpy() / math.log(2)
        array([2.], dtype=float32)

    References:
        Lorberbom et al., NeurIPS 2019, arXiv:1806.02867; Papandreou, Yuille, "Perturb-and-MAP
        random fields", ICCV 2011; Hazan, Jaakkola, "On the partition function and random maximum
        a-posteriori perturbations", ICML 2012.
    """

    parameter_name = "potentials"
    num_categories = 2

    def __init__(
        self,
        potentials: tf.Tensor,  # [B, d]
        num_variables: int,
        couplings: bool | None = None,
        solver=None,
        unary_density: bool = False,
    ):
        potentials = tf.convert_to_tensor(potentials)
        if couplings is None:
            couplings = potentials.shape[-1:] != [num_variables] or num_variables == 1
        what = f"{num_variables} {'coupled' if couplings else 'independent'} variables"
        shape = self.parameter_shape(num_variables, couplings)
        check_shape(potentials.shape, shape, what)
        self.parameters = potentials
        self.num_variables = num_variables
        self.couplings = couplings and num_variables > 1
        self.unary_density = unary_density and self.couplings
        self.coupled_density = self.couplings and not self.unary_density
        if self.coupled_density:
            binary.check_num_variables(num_variables)
        if self.couplings:
            self.solver = solver or solvers.PairwiseBinary(num_variables)
        else:
            self.solver = independent

    @classmethod
    def parameter_shape(cls, num_variables, couplings=True, unary_density=False, **_):
        num_variables = check_count(num_variables, "num_variables", 1)
        check_bool(couplings, "couplings")
        check_bool(unary_density, "unary_density")
        return (binary.num_statistics(num_variables) if couplings else num_variables,)

    def mode(self):
        noise = tf.zeros_like(self.parameters)
        _, statistics = perturbed_argmax(self.parameters, noise, self.solver)
        return binary.one_hot(statistics[:, : self.num_variables])

    def score(self, codes):
        check_codes(codes)
        bits = tf.cast(codes[..., 1], self._wide.dtype)
        statistics = binary.statistics(bits) if self.coupled_density else bits
        return tf.linalg.matvec(statistics, self._wide)

    def log_partition(self):
        return attach_slope(self._moments.log_partition, self._density, self._moments.means)

    def mean_statistics(self) -> tf.Tensor:
        """E_q s(z): the probabilities of z_i = 1 and of z_i z_j = 1, [B, d]. No gradient passes."""
        return self._moments.means

    def marginals(self):
        # Sums over 2^n configurations round to more than 1.
        one = tf.clip_by_value(self._moments.means[:, : self.num_variables], 0.0, 1.0)
        return binary.one_hot(one)

    def kl_to_uniform(self):
        """KL(q || uniform) = h . E_q s - log Z + n log 2, nats: [B].

        Its gradient towards h is Cov_q(s) h, computed as Cov_q(s, h . s) along with the value:
        nothing of size 2^n is kept for the backward pass.
        """
        m = self._moments
        greatest = self.num_variables * math.log(2.0)
        kl = tf.clip_by_value(greatest + m.negative_entropy, 0.0, greatest)  # Rounding.
        return attach_slope(kl, self._density, m.covariance)

    def probabilities(self):
        scores = binary.with_pairs(self._wide, self.num_variables)
        return tf.nn.softmax(binary.configuration_scores(scores, self.num_variables))

    def sample(self, count, seed):
        """Exact draws: codes [B, count, n, 2].

        The first half of the variables is drawn from its marginal and the second given the first,
        so that no [B, count, 2^n] tensor appears, whatever way the categorical draw is compiled.
        """
        n = self.num_variables
        potentials = check_finite(tf.stop_gradient(self._wide), "potentials")
        if not self.coupled_density:
            noise = sample_logistic([tf.shape(potentials)[0], count, n], seed)
            bits = tf.cast(potentials[:, tf.newaxis] + noise > 0.0, tf.float32)
            return nan_unless_finite(binary.one_hot(bits), potentials)
        columns = 2 ** (n - n // 2)

        def draw(chunk, number):
            seeds = tf.random.split(tf.random.fold_in(seed, number), 2)
            scores = tf.reshape(binary.configuration_scores(chunk, n), [-1, 2 ** (n // 2), columns])
            first = tf.random.stateless_categorical(
                tf.reduce_logsumexp(scores, axis=-1), count, seeds[0], tf.int32
            )
            rows = tf.reshape(tf.gather(scores, first, batch_dims=1), [-1, columns])
            second = tf.random.stateless_categorical(rows, 1, seeds[1], tf.int32)
            return first * columns + tf.reshape(second, tf.shape(first))

        index = _in_chunks(draw, potentials, n, tf.int32)
        return nan_unless_finite(binary.one_hot(binary.configuration_bits(index, n)), potentials)

    def gumbel_top_k(self, count, seed):
        """As for every posterior, n <= 20 without couplings too; see `top_down.best_of_rows`.

        Noise for all 2^n configurations would be the dearest part of a training step. A row holds
        those that share their first n / 2 bits; its mass is known from the enumeration that gives
        log Z and the KL.
        """
        n = self.num_variables
        binary.check_num_variables(n)
        self._check_top(count)
        checked = check_finite(tf.stop_gradient(self._wide), "potentials")
        padded = binary.with_pairs(checked, n)

        def draw(chunk, number):
            potentials, masses = tf.split(chunk, [padded.shape[-1], -1], axis=-1)
            rows, second = binary.factors(potentials, n)

            def scores_of(row):
                return binary.expand(tf.gather(rows, row, batch_dims=1), second, n)

            return top_down.best_of_rows(masses, scores_of, count, tf.random.fold_in(seed, number))

        given = tf.concat([padded, self._row_masses], axis=-1)
        values, index = _in_chunks(draw, given, n, (tf.float32, tf.int32))
        bits = nan_unless_finite(binary.configuration_bits(index, n), checked)
        return values, binary.one_hot(bits)

    @property
    def _density(self):
        """The potentials [B, d] of the distribution that can be evaluated, as they were given."""
        return self.parameters[:, : self.num_variables] if self.unary_density else self.parameters

    @property
    def _wide(self):
        return tf.cast(self._density, tf.float32)

    @functools.cached_property
    def _moments(self) -> "_Moments":
        """One enumeration for all that ask."""
        potentials = tf.stop_gradient(self._wide)
        if self.coupled_density:
            return _enumerated_moments(potentials, self.num_variables)
        means = tf.sigmoid(potentials)
        return _Moments(
            tf.reduce_sum(tf.nn.softplus(potentials), axis=-1),
            means,
            # Not the difference of mean score and log Z, which loses the digits that they share.
            -tf.reduce_sum(
                means * tf.nn.softplus(-potentials)
                + tf.sigmoid(-potentials) * tf.nn.softplus(potentials),
                axis=-1,
            ),
            means * tf.sigmoid(-potentials) * potentials,
            None,
        )

    @property
    def _row_masses(self):
        """Log-mass of the configurations that share their first n / 2 bits: [B, 2^(n / 2)]."""
        if self.coupled_density:
            return self._moments.row_masses
        first, second = tf.split(tf.stop_gradient(self._wide), [self.num_variables // 2, -1], -1)
        first = tf.matmul(first, binary.all_bits(self.num_variables // 2), transpose_b=True)
        return first + tf.reduce_sum(tf.nn.softplus(second), axis=-1, keepdims=True)


class _Moments(NamedTuple):
    """log Z [B], E s [B, d], E log q [B], Cov(s, h . s) [B, d], log-masses of rows [B, R]."""

    log_partition: tf.Tensor
    means: tf.Tensor
    negative_entropy: tf.Tensor
    covariance: tf.Tensor
    row_masses: tf.Tensor | None


def _enumerated_moments(potentials, num_variables):
    num_rows = 2 ** (num_variables // 2)

    def moments(chunk, _):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(chunk)
            flat = binary.configuration_scores(chunk, num_variables)
            scores = tf.reshape(flat, [-1, num_rows, 2**num_variables // num_rows])
        greatest = tf.reduce_max(scores, axis=-1, keepdims=True)
        weights = tf.exp(scores - greatest)
        masses = greatest + tf.math.log(tf.reduce_sum(weights, axis=-1, keepdims=True))
        value = tf.reduce_logsumexp(masses, axis=1, keepdims=True)
        probabilities = weights * tf.exp(greatest - value)
        weighted = probabilities * (scores - value)
        negative_entropy = tf.reduce_sum(weighted, axis=[1, 2])[:, tf.newaxis]
        # The map from potentials to scores is linear, so its gradient is a weighted sum of s(z).
        means = tape.gradient(scores, chunk, probabilities)
        covariance = tape.gradient(scores, chunk, weighted) - negative_entropy * means
        value, masses = value[..., 0], masses[..., 0]
        return tf.concat([value, negative_entropy, means, covariance, masses], axis=-1)

    d = potentials.shape[-1]
    result = _in_chunks(moments, potentials, num_variables, tf.float32)
    value, negative, means, covariance, masses = tf.split(result, [1, 1, d, d, num_rows], axis=-1)
    return _Moments(value[:, 0], means, negative[:, 0], covariance, masses)


def _in_chunks(function, potentials, num_variables, dtype):
    """function(chunk [C, d], number) over as few examples at a time as fit; results [B, ...].

    `dtype` has the structure of what the function returns.
    """
    size = _chunk_size(num_variables)
    static = potentials.shape[0]
    if static is not None and static <= size:
        return function(potentials, tf.constant(0))
    batch = tf.shape(potentials)[0]
    size = tf.clip_by_value(batch, 1, size)  # One that is not known need not be padded to it.
    num_chunks = tf.maximum(1, -(-batch // size))
    # The last chunk is filled up with zeros, cut off again below.
    filled = tf.pad(potentials, [[0, num_chunks * size - batch], [0, 0]])
    results = tf.map_fn(
        lambda pair: function(*pair),
        (tf.reshape(filled, [num_chunks, size, potentials.shape[-1]]), tf.range(num_chunks)),
        fn_output_signature=dtype,
        parallel_iterations=1,
    )
    return tf.nest.map_structure(
        lambda result: tf.reshape(result, [num_chunks * size, *result.shape[2:]])[:batch], results
    )


def _chunk_size(num_variables):
    return max(1, MAX_CONFIGURATIONS // 2**num_variables)


def independent(
    scores: tf.Tensor,  # [B, n]
) -> tf.Tensor:
    """argmax of sum_i h_i z_i; ties go to 0."""
    return tf.cast(scores > 0.0, scores.dtype)
