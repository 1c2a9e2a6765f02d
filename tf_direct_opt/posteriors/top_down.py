"""Drawing without replacement from the top down, without noise for every configuration.

The greatest perturbed score below a partial configuration is a Gumbel around its log-mass, the
log-sum-exp of the scores below it. So the maxima of a few groups are drawn first, and noise below
a group only where one of the best may lie, given that maximum.

References:
    Kool, van Hoof, Welling, "Stochastic beams and where to find them", ICML 2019; Maddison,
    Tarlow, Minka, "A* sampling", NeurIPS 2014.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from tf_direct_opt.perturbation import sample_gumbel
from tf_direct_opt.posteriors import loops

# The perturbed score of a place in a beam that nothing fills yet: below any number of choices of
# the least log-probability. exp of that is 0 long before; a mask of -1e30 stays a choice.
_NOTHING = -1e30
LEAST = -1e8


def log_probs(
    scores: tf.Tensor,  # [..., C]
) -> tf.Tensor:
    """Log-probabilities of C choices, `LEAST` at least."""
    return tf.maximum(tf.nn.log_softmax(scores), LEAST)


class Beam(NamedTuple):
    """The best of the partial configurations that are equally long, M an example."""

    values: tf.Tensor
    """The greatest perturbed score below each, descending: [B, M]."""
    mass: tf.Tensor
    """Log-sum-exp of the scores below each: [B, M]."""
    parent: tf.Tensor
    """Place in the beam before of what each continues: int32 [B, M]."""
    choice: tf.Tensor
    """By which of the C choices: int32 [B, M]."""


def lengthened(
    masses: tf.Tensor,  # [B, M, C]
    values: tf.Tensor | None,  # [B, M]
    count: int,
    seed: tf.Tensor,  # [2] int
) -> Beam:
    """The best `count`, or all, of M * C continuations of M partial configurations.

    Args:
        masses: log-sum-exp of the scores below each continuation.
        values: the greatest perturbed score below each that is continued; None: not drawn yet, the
            continuations are the whole.
        count: how many are kept.
        seed: two integers; the same seed gives the same draws.
    """
    _, num_parents, num_choices = masses.shape
    perturbed = masses + tf.cast(sample_gumbel(tf.shape(masses), seed), masses.dtype)
    if values is not None:
        perturbed = given_maximum(perturbed, values)
    size = num_parents * num_choices
    values, place = tf.math.top_k(tf.reshape(perturbed, [-1, size]), min(count, size))
    mass = tf.gather(tf.reshape(masses, [-1, size]), place, batch_dims=1)
    return Beam(values, mass, place // num_choices, place % num_choices)


def best_of_rows(
    masses: tf.Tensor,  # [B, R]
    scores_of: Callable[[tf.Tensor], tf.Tensor],  # rows [B, M] -> scores [B, M, C]
    count: int,
    seed: tf.Tensor,  # [2] int
) -> tuple[tf.Tensor, tf.Tensor]:
    """The best of R * C scores under an independent zero-mean Gumbel for each.

    Row maxima first: no row but the `count` greatest can hold one of the `count` best, so noise
    is drawn for these alone, given its maximum.

    Args:
        masses: log-sum-exp of the scores of every row.
        scores_of: the scores themselves, nats, of a few rows.
        count: M, at most R * C.
        seed: two integers; the same seed gives the same draws.

    Returns:
        Perturbed scores [B, M], descending, and their places int32 [B, M] among the R * C.
    """
    seeds = tf.random.split(seed, 2)
    rows = lengthened(masses[:, tf.newaxis], None, count, seeds[0])
    scores = scores_of(rows.choice)
    best = lengthened(scores, rows.values, count, seeds[1])
    row = tf.gather(rows.choice, best.parent, batch_dims=1)
    return best.values, row * scores.shape[-1] + best.choice


def best_paths(
    log_mass: tf.Tensor,  # [B]
    choices: tf.Tensor,  # [L, B, S, C]
    move: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    start: int,
    count: int,
    seed: tf.Tensor,  # [2] int
) -> tuple[tf.Tensor, tf.Tensor]:
    """The same for configurations that are sequences of L choices, each depending on a state.

    One step of a beam of `count` for each choice, in a loop whose graph does not grow with L.

    Args:
        log_mass: log Z of the whole.
        choices: log-probability of each of C choices in each of S states, `LEAST` at least where
            a state has the choice, `trellis.IMPOSSIBLE` where it has not.
        move: (state, choice) -> next state, int32.
        start: the first state.
        count: M, at most the number of sequences of positive probability.
        seed: two integers; the same seed gives the same draws.

    Returns:
        Perturbed scores [B, M], descending, and the choices int32 [B, M, L].
    """
    length, batch = choices.shape[0], tf.shape(choices)[1]
    seeds = tf.random.split(seed, length)
    masses = log_mass[:, tf.newaxis, tf.newaxis] + choices[0, :, start, tf.newaxis]
    beam = lengthened(masses, None, count, seeds[0])
    if length == 1:
        return beam.values, beam.choice[..., tf.newaxis]
    # From here on the beam has `count` places, some of them with nothing in it.
    missing = [[0, 0], [0, count - beam.values.shape[1]]]
    nothing = (_NOTHING, _NOTHING, 0, 0)
    beam = Beam(
        *(tf.pad(x, missing, constant_values=c) for x, c in zip(beam, nothing, strict=True))
    )
    state = move(tf.fill([batch, count], start), beam.choice)

    def step(before, level):
        (beam, state), (table, level_seed) = before, level
        masses = beam.mass[..., tf.newaxis] + tf.gather(table, state, batch_dims=1)
        beam = lengthened(masses, beam.values, count, level_seed)
        return beam, move(tf.gather(state, beam.parent, batch_dims=1), beam.choice)

    beams, _ = loops.scan(step, (choices[1:], seeds[1:]), (beam, state))

    def trace(after, level):
        place, (parent, choice) = after[0], level
        return tuple(tf.gather(x, place, batch_dims=1) for x in (parent, choice))

    place = tf.broadcast_to(tf.range(count), [batch, count])
    places, traced = loops.scan(trace, (beams.parent, beams.choice), (place, place), reverse=True)
    first = tf.gather(beam.choice, places[0], batch_dims=1)
    choice = tf.transpose(tf.concat([first[tf.newaxis], traced], 0), [1, 2, 0])
    # A loop forgets how wide the beam is.
    return (
        tf.ensure_shape(beams.values[-1], [None, count]),
        tf.ensure_shape(choice, [None, count, length]),
    )


def given_maximum(
    values: tf.Tensor,  # [..., M], perturbed by independent Gumbels
    maximum: tf.Tensor,  # [...]
) -> tf.Tensor:
    """The same values, moved so that their maximum is the given one: draws given that maximum.

    Each is -log(exp(-maximum) - exp(-greatest) + exp(-value)), in the order of operations that
    neither overflows nor cancels (Kool et al. 2019, appendix B.3).
    """
    maximum = maximum[..., tf.newaxis]
    greatest = tf.reduce_max(values, axis=-1, keepdims=True)
    # -inf for the greatest itself, which becomes the maximum.
    excess = maximum - values + tfp.math.log1mexp(values - greatest)
    return maximum - tf.nn.relu(excess) - tf.nn.softplus(-tf.abs(excess))
