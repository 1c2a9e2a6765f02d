"""A chain of categorical variables with a potential for each transition."""

import math

import tensorflow as tf

from tf_direct_opt import solvers
from tf_direct_opt.checks import check_count
from tf_direct_opt.perturbation import perturbed_argmax
from tf_direct_opt.posteriors import loops, top_down
from tf_direct_opt.posteriors.base import check_codes, check_shape
from tf_direct_opt.posteriors.trellis import Trellis


class Chain(Trellis):
    """q(z) = exp(sum_t u_t(z_t) + sum_t v_t(z_t, z_t+1) - log Z): a linear-chain random field.

    Everything is exact and takes O(T K^2) operations an example: log Z by messages from the end,
    marginals and entropy by one pass forwards, draws by both, with or without replacement.

    Args:
        potentials: [B, T K + (T - 1) K K] = [u, flattened from [T, K] | v, flattened from
            [T - 1, K, K], the label at t before the label at t + 1], the layout of `solvers.Chain`;
            nats.
        num_variables: T.
        num_categories: K.

    Raises:
        ValueError: T < 1 or K < 2; potentials of another shape.

    Example:
        >>> chain = posteriors.Chain(tf.zeros([1, 8]), num_variables=2, num_categories=2)
        >>> chain.log_partition().numpy().round(3)  # log 4
        array([1.386], dtype=float32)

    References:
        Lafferty, McCallum, Pereira, "Conditional random fields", ICML 2001; Kool, van Hoof,
        Welling, "Stochastic beams and where to find them", ICML 2019.
    """

    parameter_name = "potentials"
    start = 0

    def __init__(
        self,
        potentials: tf.Tensor,  # [B, T K + (T - 1) K K]
        num_variables: int,
        num_categories: int,
    ):
        self.parameters = tf.convert_to_tensor(potentials)
        shape = self.parameter_shape(num_variables, num_categories)
        check_shape(
            self.parameters.shape, shape, f"a chain of {num_variables} labels of {num_categories}"
        )
        self.num_variables = num_variables
        self.num_categories = num_categories

    @classmethod
    def parameter_shape(cls, num_variables: int, num_categories: int) -> tuple[int, ...]:
        length = check_count(num_variables, "num_variables", 1)
        size = check_count(num_categories, "num_categories", 2)
        return (length * size + (length - 1) * size**2,)

    def mode(self):
        solver = solvers.Chain(self.num_variables, self.num_categories)
        _, statistics = perturbed_argmax(self._wide, tf.zeros_like(self._wide), solver)
        return self._split(statistics)[0]

    def score(self, codes):
        check_codes(codes)
        codes = tf.cast(codes, self._wide.dtype)
        pairs = codes[:, :, :-1, :, tf.newaxis] * codes[:, :, 1:, tf.newaxis]
        # The number of codes stays known where it is.
        batch, count = (n or tf.shape(codes)[i] for i, n in enumerate(codes.shape[:2]))
        flat = [
            tf.reshape(part, [batch, count, math.prod(part.shape[2:])]) for part in (codes, pairs)
        ]
        return tf.linalg.matvec(tf.concat(flat, axis=-1), self._wide)

    def _split(self, flat):
        """The unaries [B, T, K] and the transitions [B, T - 1, K, K]."""
        length, size = self.num_variables, self.num_categories
        unaries, transitions = tf.split(flat, [length * size, -1], axis=-1)
        batch = tf.shape(flat)[0]
        return (
            tf.reshape(unaries, [batch, length, size]),
            tf.reshape(transitions, [batch, length - 1, size, size]),
        )

    def _messages(self, parameters):
        unaries, transitions = self._split(parameters)
        # A constant would be in every mass that follows, and round it.
        shared = tf.stop_gradient(tf.reduce_max(unaries, axis=-1, keepdims=True))
        unaries = tf.transpose(unaries - shared, [1, 0, 2])
        transitions = tf.transpose(transitions, [1, 0, 2, 3])
        # to_go[t]: log-mass of what follows from label z_t on, [T, B, K].
        to_go = unaries[-1:]
        if self.num_variables > 1:
            before = loops.scan(
                lambda after, here: (
                    here[0] + tf.reduce_logsumexp(here[1] + after[:, tf.newaxis], axis=-1)
                ),
                (unaries[:-1], transitions),
                unaries[-1],
                reverse=True,
            )
            to_go = tf.concat([before, to_go], axis=0)
        first = top_down.log_probs(to_go[:1])[:, :, tf.newaxis]  # no label before it: every row
        first = tf.tile(first, [1, 1, self.num_categories, 1])
        onward = top_down.log_probs(transitions + to_go[1:, :, tf.newaxis])
        log_partition = tf.reduce_logsumexp(to_go[0], axis=-1) + tf.reduce_sum(shared, axis=[1, 2])
        return log_partition, tf.concat([first, onward], axis=0)

    @staticmethod
    def _move(state, choice):
        del state
        return choice

    @staticmethod
    def _arrivals(joint):
        return tf.reduce_sum(joint, axis=1)
