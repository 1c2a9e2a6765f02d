"""Loss tables: what every single-coordinate choice of the code would cost.

Each function takes a `loss_fn` and the sampled code [B, N, K] and returns `(loss, loss_table)`:
the loss [B] at the code, through which the decoder gets its gradient, and the table [B, N, K]
that the estimator needs, without gradient, of one and the same function for all codes: see
`loss_fn` for decoders that are another one in training.
"""

from collections.abc import Callable

import tensorflow as tf

from tf_direct_opt.loss_fn import batch_size, checked, differentiated
from tf_direct_opt.perturbation import sample_uniform
from tf_direct_opt.types import LossFn

# Bounds the memory of a table: with 784 pixels and batch 100, 64 candidates are 20 MB a tensor.
MAX_CANDIDATES = 64


def all_codes_loss(
    loss_fn: LossFn,
    num_categories: int,
) -> tf.Tensor:
    """Losses of all K codes of a single variable, [B, K], from one decode of K codes.

    This is what makes N = 1 cheap: the decoder sees K inputs, not B or B * K.
    """
    return checked(loss_fn)(every_code(num_categories))


def every_code(num_categories: int) -> tf.Tensor:
    """The K codes of a single variable, shared by a batch: [1, K, 1, K]."""
    return tf.eye(num_categories)[tf.newaxis, :, tf.newaxis, :]


def all_codes(
    loss_fn: LossFn,
    code: tf.Tensor,  # [B, 1, K]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Exact table for N = 1: K decoder evaluations for the whole batch.

    (And one an example, where the decoder is another function in training than at inference.)
    """
    if code.shape[1] != 1:
        raise ValueError(
            f"Expected one variable for the table of all codes; received {code.shape[1]}. "
            "Use `single_flips` for more."
        )
    loss_fn = checked(loss_fn, batch_size(code))
    losses = all_codes_loss(loss_fn.inference, code.shape[-1])
    if loss_fn.inference is loss_fn:
        loss = tf.reduce_sum(losses * code[:, 0], axis=-1)
    else:
        loss = loss_fn(code[:, tf.newaxis])[:, 0]
    return loss, tf.stop_gradient(losses)[:, tf.newaxis]


def single_flips(
    loss_fn: LossFn,
    code: tf.Tensor,  # [B, N, K]
    max_candidates: int = MAX_CANDIDATES,
    variables: tf.Tensor | None = None,  # [B, m] int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Exact single-coordinate table: table[b, i, k] = f(x_b, z* with z_i := k).

    N (K - 1) + 1 decoder evaluations an example; all but the one at z* without gradient, at most
    `max_candidates` of them at a time. With `variables`, such as `draw_variables` draws, only
    theirs: m (K - 1) + 1 evaluations, and f(x_b, z*) throughout the rows of the others.
    """
    _, num_variables, num_categories = code.shape
    loss_fn = checked(loss_fn, batch_size(code))
    losses = loss_fn(code[:, tf.newaxis])
    loss, compared = losses[:, 0], loss_fn.compared(code[:, tf.newaxis], losses)
    category = tf.argmax(code, axis=-1, output_type=tf.int32)  # [B, N]
    others = num_categories - 1
    which = tf.range(num_variables)[tf.newaxis] if variables is None else variables
    flipped = tf.one_hot(which, num_variables, dtype=tf.int32)  # [B or 1, m, N]

    def candidates(index):  # [M] -> codes [B, M, N, K]
        # Candidate j * (K - 1) + s - 1 moves variable j of those on by s categories, cyclically.
        shift = tf.gather(flipped, index // others, axis=1)
        shift *= (index % others + 1)[:, tf.newaxis]
        moved = (category[:, tf.newaxis] + shift) % num_categories
        return tf.one_hot(moved, num_categories, dtype=code.dtype)

    count = which.shape[1]
    flips = losses_in_chunks(loss_fn, candidates, count * others, max_candidates)
    flips = tf.reshape(flips, [-1, count, others])
    if variables is not None:
        # Each variable takes the first row that is its own, or else one where nothing changes.
        unchanged = tf.tile(compared[:, tf.newaxis], [1, 1, others])
        own = tf.pad(flipped, [(0, 0), (0, 1), (0, 0)], constant_values=1)
        row = tf.argmax(tf.transpose(own, [0, 2, 1]), axis=-1)
        flips = tf.gather(tf.concat([flips, unchanged], axis=1), row, batch_dims=1)
    by_shift = tf.concat([tf.tile(compared[:, tf.newaxis], [1, num_variables, 1]), flips], axis=-1)
    shift_of = (tf.range(num_categories) - category[..., tf.newaxis]) % num_categories
    return loss, tf.gather(by_shift, shift_of, batch_dims=2)


def drawn_flips(
    loss_fn: LossFn,
    code: tf.Tensor,  # [B, N, K]
    logits: tf.Tensor,  # [B, N, K]
    count: int,
    power: float,
    seed: tf.Tensor,  # [2] int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """`single_flips` of `count` variables an example, drawn where the posterior is undecided.

    A variable is drawn in proportion to (1 - sum_k p_k^2)^power, a tenth of that for certain: what
    a slope may be is bounded by it, with power 1 for p (f - E f), and, as its second moment goes
    with the probability to flip, 1/2 for the difference of two argmaxes.

    Returns:
        The loss [B], the table [B, N, K] and weights [B, N, 1]: the slopes of the rows times their
        weights have the mean of those of the whole table.
    """
    probabilities = tf.nn.softmax(tf.cast(tf.stop_gradient(logits), tf.float32))
    undecided = 1.0 - tf.reduce_sum(probabilities**2, axis=-1)
    importance = tf.maximum(undecided, 1e-6) ** power
    importance += 0.1 * tf.reduce_mean(importance, axis=-1, keepdims=True)
    variables, weight = draw_variables(importance, count, seed)
    loss, table = single_flips(loss_fn, code, variables=variables)
    return loss, table, weight[..., tf.newaxis]


def draw_variables(
    importance: tf.Tensor,  # [B, N]
    count: int,
    seed: tf.Tensor,  # [2] int
) -> tuple[tf.Tensor, tf.Tensor]:
    """`count` of N variables an example, drawn systematically in proportion to their importance.

    A sum over all variables is, in the mean, the sum over the drawn ones times their weights.

    Args:
        importance: positive.
        count: draws; a variable that has more than 1 / count of all importance may come twice.
        seed: of one uniform number an example.

    Returns:
        Variables int32 [B, count], ascending, and weights float32 [B, N]: how often a variable
        was drawn, by how often it is in the mean.

    Example:
        >>> variables, weights = draw_variables(tf.ones([1, 4]), 2, [0, 0])
        >>> variables.numpy(), weights.numpy()
        (array([[0, 2]], dtype=int32), array([[2., 0., 2., 0.]], dtype=float32))
    """
    num_variables = importance.shape[1]
    share = importance / tf.reduce_sum(importance, axis=-1, keepdims=True)
    start = sample_uniform([tf.shape(share)[0], 1], seed)
    points = (start + tf.range(count, dtype=tf.float32)) / count  # [B, count]
    passed = points[..., tf.newaxis] >= tf.cumsum(share, axis=-1)[:, tf.newaxis]
    variables = tf.reduce_sum(tf.cast(passed, tf.int32), axis=-1)
    variables = tf.minimum(variables, num_variables - 1)  # The last sum may round to below 1.
    drawn = tf.reduce_sum(tf.one_hot(variables, num_variables), axis=1)
    return variables, drawn / (count * share)


def of_candidates(
    loss_fn: LossFn,
    codes: tf.Tensor,  # [B, M, N, K]
) -> tuple[tf.Tensor, tf.Tensor]:
    """The loss [B] of the first of M codes, with gradient, and those of all of them, [B, M].

    M decoder evaluations an example, one of them with gradient.
    """
    loss_fn = checked(loss_fn, batch_size(codes))
    first = loss_fn(codes[:, :1])
    others = losses_of(loss_fn, codes[:, 1:])
    return first[:, 0], tf.concat([loss_fn.compared(codes[:, :1], first), others], axis=-1)


def linearised(
    loss_fn: LossFn,
    code: tf.Tensor,  # [B, N, K]
) -> tuple[tf.Tensor, tf.Tensor]:
    """First-order table: f(z*) + <df/dz (z*), z - z*> up to a constant of each variable.

    One decoder evaluation an example and one backward pass; for downstream networks that are too
    expensive, or too opaque, to evaluate at every flip. Biased unless f is linear in the code.
    """
    code = tf.stop_gradient(code)
    loss_fn = checked(loss_fn, batch_size(code), differentiable=True)
    with tf.GradientTape() as tape:
        tape.watch(code)
        loss = loss_fn(code[:, tf.newaxis])[:, 0]
    return loss, tf.stop_gradient(differentiated(tape.gradient(loss, code)))


def losses_in_chunks(
    loss_fn: LossFn,
    candidates: Callable[[tf.Tensor], tf.Tensor],  # [M] -> codes [B, M, N, K]
    count: int,
    max_candidates: int = MAX_CANDIDATES,
) -> tf.Tensor:
    """Losses [B, count] of codes that never exist all at once, compared; no gradient passes."""
    loss_fn = checked(loss_fn).inference
    if count <= max_candidates:
        return tf.stop_gradient(loss_fn(candidates(tf.range(count))))
    num_chunks = -(-count // max_candidates)
    size = -(-count // num_chunks)
    # The last chunk is filled up with repeats of the last candidate, cut off again below.
    index = tf.minimum(tf.range(num_chunks * size), count - 1)
    chunks = tf.map_fn(
        lambda chunk: tf.stop_gradient(loss_fn(candidates(chunk))),
        tf.reshape(index, [num_chunks, size]),
        fn_output_signature=tf.float32,
        parallel_iterations=1,
    )  # [num_chunks, B, size]
    losses = tf.transpose(chunks, [1, 0, 2])
    return tf.reshape(losses, [-1, num_chunks * size])[:, :count]


def losses_of(
    loss_fn: LossFn,
    codes: tf.Tensor,  # [B, M, N, K]
) -> tf.Tensor:
    """Losses [B, M] of codes that were drawn already, few of them decoded at a time."""
    return losses_in_chunks(loss_fn, lambda index: tf.gather(codes, index, axis=1), codes.shape[1])
