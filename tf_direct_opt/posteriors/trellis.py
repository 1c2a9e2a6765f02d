"""Distributions that unfold choice by choice, over a small number of states.

A configuration is a sequence of L choices. What has been chosen so far matters for what follows
through a state alone: the last label of a chain, how many elements a subset still needs. Messages
from the end give the log-probability of every choice in every state, and from these follow, choice
by choice, all quantities and draws, in L steps of S C operations.
"""

import abc
import functools
import math
from typing import NamedTuple

import tensorflow as tf

from tf_direct_opt.perturbation import check_finite, nan_unless_finite, sample_gumbel
from tf_direct_opt.posteriors import loops, top_down
from tf_direct_opt.posteriors.base import Posterior
from tf_direct_opt.slopes import attach_slope

# The log-probability of a choice that a state does not have: exp gives 0, and 0 times it is 0. It
# is below any sum of potentials, which are taken as `_LARGEST` at most.
IMPOSSIBLE = -1e20
_LARGEST = 1e15


class Moments(NamedTuple):
    """What one pass backwards and one forwards yield."""

    log_partition: tf.Tensor  # [B]
    choices: tf.Tensor  # log-probabilities given the state, [L, B, S, C]
    marginals: tf.Tensor  # of every choice, [B, L, C]
    entropy: tf.Tensor  # [B]


class Trellis(Posterior):
    """A posterior of N choices among K categories, whose state is one of S.

    A subclass sets `start`, the first state, and gives `score`, `mode` and

      * `_messages(parameters)`: log Z [B], and the choices' log-probabilities [L, B, S, C];
      * `_move(state, choice)`: the next state, of integers;
      * `_arrivals(joint)`: [B, S, C] probabilities of state and choice -> [B, S] of the next state.

    float32 inside, or float64 for parameters of that type.
    """

    start: int

    @abc.abstractmethod
    def _messages(self, parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]: ...

    @staticmethod
    @abc.abstractmethod
    def _move(state: tf.Tensor, choice: tf.Tensor) -> tf.Tensor: ...

    @staticmethod
    @abc.abstractmethod
    def _arrivals(joint: tf.Tensor) -> tf.Tensor: ...

    def log_partition(self):
        return attach_slope(self._moments.log_partition, self.parameters, self.mean_statistics)

    def entropy(self):
        return attach_slope(self._moments.entropy, self.parameters, lambda: self._slope("entropy"))

    def kl_to_uniform(self):
        return math.log(self.num_configurations) - self.entropy()

    def marginals(self):
        return self._moments.marginals

    def mean_statistics(self) -> tf.Tensor:
        """E_q s(z) = d log Z / dh, [B, *parameter_shape]. No gradient passes."""
        return self._slope("log_partition")

    def sample(self, count, seed):
        choices = self._moments.choices
        seeds = tf.random.split(seed, choices.shape[0])

        def draw(before, level):
            table, level_seed = level
            rows = tf.gather(table, before[0], batch_dims=1)  # [B, count, C]
            noise = tf.cast(sample_gumbel(tf.shape(rows), level_seed), rows.dtype)
            choice = tf.argmax(rows + noise, axis=-1, output_type=tf.int32)
            return self._move(before[0], choice), choice

        first = tf.fill([tf.shape(choices)[1], count], self.start)
        _, drawn = loops.scan(draw, (choices, seeds), (first, tf.zeros_like(first)))
        codes = tf.one_hot(tf.transpose(drawn, [1, 2, 0]), self.num_categories)
        return nan_unless_finite(codes, self._wide)

    def gumbel_top_k(self, count, seed):
        """As for every posterior; see `top_down.best_paths`."""
        self._check_top(count)
        values, choices = top_down.best_paths(
            self._moments.log_partition,
            self._moments.choices,
            self._move,
            self.start,
            count,
            seed,
        )
        return values, nan_unless_finite(tf.one_hot(choices, self.num_categories), self._wide)

    @property
    def _wide(self):
        if self.parameters.dtype == tf.float64:
            return self.parameters
        return tf.cast(self.parameters, tf.float32)

    @property
    def _moments(self) -> Moments:
        return self._recorded[0]

    @functools.cached_property
    def _recorded(self):
        """One pass backwards and one forwards for all that ask, and what their slopes need.

        No gradient passes. The slopes are traced only where a gradient is asked for, as tracing
        them takes more time than everything else.
        """
        parameters = check_finite(tf.stop_gradient(self._wide), self.parameter_name)
        parameters = tf.clip_by_value(parameters, -_LARGEST, _LARGEST)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(parameters)
            log_partition, choices = self._messages(parameters)
            marginals, entropy = self._forward(choices)
        return Moments(log_partition, choices, marginals, entropy), tape, parameters

    def _slope(self, name: str) -> tf.Tensor:
        """The gradient of one of the scalars towards the parameters."""
        moments, tape, parameters = self._recorded
        return tape.gradient(getattr(moments, name), parameters)

    def _forward(self, choices):
        """Marginals [B, L, C] and entropy [B], by the probabilities of the states."""
        _, batch, num_states, size = tf.unstack(tf.shape(choices))
        states = tf.one_hot(tf.fill([batch], self.start), num_states, dtype=choices.dtype)

        def step(before, table):
            joint = before[0][..., tf.newaxis] * tf.exp(table)
            entropy = -tf.reduce_sum(joint * table, axis=[1, 2])
            return self._arrivals(joint), tf.reduce_sum(joint, axis=1), entropy

        nothing = tf.zeros([batch, size], choices.dtype)
        _, marginals, entropies = loops.scan(step, choices, (states, nothing, nothing[:, 0]))
        return tf.transpose(marginals, [1, 0, 2]), tf.reduce_sum(entropies, axis=0)
