"""Zero-mean noise and the argmax it perturbs (perturb-and-MAP; with Gumbel noise Gumbel-Max)."""

import functools
import math

import numpy as np
import tensorflow as tf

from tf_direct_opt.checks import check_count
from tf_direct_opt.types import Solver

EULER_GAMMA = 0.5772156649015329
PHILOX = 1  # The algorithm that `tf.random.stateless_*` choose on CPU and GPU.


def sample_uniform(
    shape,  # ints, or a 1-D int tensor
    seed: tf.Tensor,  # [2] int
    minval: float = 0.0,
) -> tf.Tensor:
    """Draws i.i.d. uniform numbers in [minval, 1), float32: `tf.random.stateless_uniform`."""
    key, counter = _key_and_counter(seed)
    uniform = tf.raw_ops.StatelessRandomUniformV2(
        shape=shape, key=key, counter=counter, alg=PHILOX, dtype=tf.float32
    )
    return uniform * (1.0 - minval) + minval


def _key_and_counter(seed):
    """Where Philox begins, for a seed [2].

    On a CPU XLA would compute both again for every number that is drawn, many times as slowly: it
    does not look through a scatter.
    """
    if tf.TensorShape(tf.convert_to_tensor(seed).shape) != [2]:
        raise ValueError(
            f"Expected `seed` to be two integers, as for tf.random.stateless_uniform; received "
            f"{seed!r}. Please give (0, 42), say."
        )
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    words = tf.bitcast(counter, tf.int64)  # GPUs scatter no unsigned ones.
    words = tf.tensor_scatter_nd_update(words, [[1]], words[1:])
    return key, tf.bitcast(words, tf.uint64)


def sample_gumbel(
    shape,  # ints, or a 1-D int tensor
    seed: tf.Tensor,  # [2] int
) -> tf.Tensor:
    """Draws i.i.d. zero-mean Gumbel noise: the same seed gives the same noise.

    XLA hands out the words of Philox in another order than eager mode and graphs: with and without
    `jit_compile` a seed gives two noises, as it does for TensorFlow's own draws.

    gamma = -log(-log(u)) - c with u ~ Uniform(0, 1) and c = 0.5772..., Euler's constant:
    mean 0, variance pi^2 / 6.

    Args:
        shape: shape of the noise.
        seed: two integers, as for every `tf.random.stateless_*` function.

    Returns:
        A float32 tensor, whatever the dtype policy, all of it finite.

    Example:
        >>> sample_gumbel([2, 3], seed=[1, 2]).shape
        TensorShape([2, 3])

    References:
        Lorberbom et al., NeurIPS 2019, Theorem 2; Gumbel, 1954.
    """
    # A uniform draw of exactly 0 has probability 2^-23, that is once in a few minutes of training,
    # and would become -inf; the smallest normal float32 becomes -4.5 - c instead. In float16 one
    # draw in a thousand is not finite, therefore float32 under every policy.
    uniform = sample_uniform(shape, seed, float(np.finfo(np.float32).tiny))
    return -tf.math.log(-tf.math.log(uniform)) - EULER_GAMMA


def sample_logistic(
    shape,  # ints, or a 1-D int tensor
    seed: tf.Tensor,  # [2] int
) -> tf.Tensor:
    """Logistic noise, the difference of two Gumbels: P[h + noise > 0] = sigmoid(h). float32."""
    gumbel = sample_gumbel(tf.concat([shape, [2]], axis=0), seed)
    return gumbel[..., 1] - gumbel[..., 0]


def sample_normal(
    shape,  # ints, or a 1-D int tensor
    seed: tf.Tensor,  # [2] int
) -> tf.Tensor:
    """Draws i.i.d. standard normal noise, float32: `tf.random.stateless_normal`."""
    key, counter = _key_and_counter(seed)
    return tf.raw_ops.StatelessRandomNormalV2(
        shape=shape, key=key, counter=counter, alg=PHILOX, dtype=tf.float32
    )


def sample_sum_of_gamma(
    shape,  # ints, or a 1-D int tensor
    seed: tf.Tensor,  # [2] int
    num_ones: int,
    num_terms: int = 10,
) -> tf.Tensor:
    """Draws i.i.d. zero-mean noise of which a sum of k entries is nearly a Gumbel.

    gamma = sum_{i=1..s} (G_i / i - 1 / (i k)), G_i ~ Gamma(1/k, 1): a sum of k of them is
    sum_i (E_i - 1) / i with E_i exponential, which tends to the zero-mean Gumbel as s grows. So a
    configuration with k ones has a Gumbel for its perturbation, as in Gumbel-Max.

    Args:
        shape: shape of the noise.
        seed: two integers.
        num_ones: k, the number of ones in a configuration.
        num_terms: s, terms of the series.

    Returns:
        float32; no kernel for XLA exists.

    References:
        Niepert, Minervini, Franceschi, "Implicit MLE", NeurIPS 2021, section 4.1.
    """
    index = tf.range(1.0, num_terms + 1.0)
    draws = tf.random.stateless_gamma(
        tf.concat([shape, [num_terms]], 0), seed, alpha=1.0 / num_ones, dtype=tf.float32
    )
    return tf.reduce_sum((draws - 1.0 / num_ones) / index, axis=-1)


NOISES = {"gumbel": sample_gumbel, "normal": sample_normal, "sum_of_gamma": sample_sum_of_gamma}


def noise_of(kind, num_ones, solver):
    """(shape, seed) -> noise of that kind; ValueError for an unknown one."""
    if kind is None:
        return lambda shape, seed: tf.zeros(shape)
    if kind not in NOISES:
        raise ValueError(f"Expected `noise` in {sorted(NOISES)} or None; received {kind!r}.")
    if kind != "sum_of_gamma":
        return NOISES[kind]
    if num_ones is None:
        num_ones = getattr(solver, "k", None)
    if num_ones is None:
        raise ValueError(
            "Expected `num_ones`, the number of ones in a configuration, with sum_of_gamma noise; "
            "received None. Count them, or take `noise='gumbel'`."
        )
    return functools.partial(sample_sum_of_gamma, num_ones=check_count(num_ones, "num_ones", 1))


def perturbed_argmax(
    logits: tf.Tensor,  # [B, *event]
    noise: tf.Tensor,  # [B, *event]
    solver: Solver,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Perturb and maximise: code = solver(logits + noise).

    With i.i.d. Gumbel noise and a categorical solver this is an exact draw (Theorem 2):
    P[code = e_k] = softmax(logits)_k. No gradient passes; `direct.py` defines one.

    Args:
        logits: unnormalised log-probabilities, nats, any float dtype.
        noise: perturbation of the same shape (zeros give the plain argmax).
        solver: scores -> 0/1 statistics of the best configuration.

    Returns:
        `(scores, code)`, both float32 [B, *event].

    Raises:
        ValueError: a solver whose result has another shape.
        tf.errors.InvalidArgumentError: a non-finite score, or a solver's entry that is not 0 or 1,
            in eager and graph mode. XLA drops assertions, so there the example's code becomes NaN,
            and with it the loss.
    """
    scores = tf.stop_gradient(tf.cast(logits, tf.float32) + tf.cast(noise, tf.float32))
    scores = check_finite(scores, "logits and noise")
    return scores, nan_unless_finite(solve(solver, scores), scores)


def solve(
    solver: Solver,
    scores: tf.Tensor,  # [B, *event]
) -> tf.Tensor:
    """solver(scores), held to the contract of a solver; the package's own are by their tests."""
    code = solver(scores)
    if type(solver).__module__.partition(".")[0] == __name__.partition(".")[0]:
        return code
    name = getattr(solver, "__name__", type(solver).__name__)
    if code is None:
        raise ValueError(
            f"Expected the solver {name!r} to return a code; received None. Please return it."
        )
    code = tf.convert_to_tensor(code)
    if not code.shape.is_compatible_with(scores.shape):
        raise ValueError(
            f"Expected the solver {name!r} to return a code of the shape of its scores, "
            f"{scores.shape}; received shape {code.shape}. Return 0/1 entries, one a score."
        )
    code = tf.ensure_shape(tf.stop_gradient(tf.cast(code, scores.dtype)), scores.shape)
    binary = (code == 0.0) | (code == 1.0)
    return tf.debugging.check_numerics(
        tf.where(binary, code, math.nan),
        f"Expected the solver {name!r} to return entries 0 and 1; received others",
    )


def check_finite(tensor: tf.Tensor, name: str) -> tf.Tensor:
    """The tensor itself; raises in eager and graph mode where an entry is infinite or NaN."""
    return tf.debugging.check_numerics(
        tensor,
        f"Expected finite {name}, received infinite or NaN entries. If training diverged, lower "
        "the learning rate; to exclude a category use a large negative logit, not -inf",
    )


def zero_if(
    condition: tf.Tensor,  # []
    message: str,
) -> tf.Tensor:
    """0, which raises the message in eager and graph mode, and is NaN under XLA, where it is false.

    One operation where an assertion takes a branch, and without the check that an overflow of a
    `LossScaleOptimizer` would fail on the way back.
    """
    value = tf.where(condition, 0.0, math.nan)
    return tf.stop_gradient(tf.debugging.check_numerics(value, message))


def nan_unless_finite(
    values: tf.Tensor,  # [B, ...]
    checked: tf.Tensor,  # [B, *event]
) -> tf.Tensor:
    """`values`, with NaN for every example in which `checked` has a non-finite entry."""
    axes = list(range(1, checked.shape.rank))
    finite = tf.reduce_all(tf.math.is_finite(checked), axis=axes)
    return tf.where(per_example(finite, values), values, math.nan)


def per_example(
    vector: tf.Tensor,  # [] or [B]
    like: tf.Tensor,  # [B, ...]
) -> tf.Tensor:
    """Appends unit axes to a [B] vector so that it broadcasts against `like`; scalars pass."""
    if vector.shape.rank == 0:
        return vector
    return tf.reshape(vector, [-1] + [1] * (like.shape.rank - 1))
