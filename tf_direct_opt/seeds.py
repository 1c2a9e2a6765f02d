"""Seeds for stateless noise that survive saving and differ between replicas."""

import numbers

import keras
import tensorflow as tf

from tf_direct_opt.checks import check_count

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"Expected Keras on TensorFlow; received its backend {keras.backend.backend()!r}. Please "
        "set KERAS_BACKEND=tensorflow before Keras is imported."
    )


class SeedStream(keras.layers.Layer):
    """A layer without inputs whose only weight is the state of a seed.

    `keras.random.SeedGenerator` is not saved with a model, so a resumed run replays the noise it
    has used already, and it gives every replica of a distribution strategy the same noise. This
    state is an ordinary weight, and the replica's number is folded in.

    Args:
        seed: integer; None draws one, which is then kept with the weights.
    """

    def __init__(self, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        if seed is not None:
            integer = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
            if not integer or not 0 <= seed < 2**63:
                raise ValueError(
                    "Expected `seed` to be an integer from 0 to 2^63 - 1 or None; "
                    f"received {seed!r}."
                )
            seed = int(seed)
        self.seed = seed
        start = keras.random.SeedGenerator(seed).get_config()["seed"]
        if start is None:
            start = _drawn()
        self.state = self.add_weight(
            shape=[2],
            dtype="int64",
            initializer=lambda shape, dtype: tf.constant([start, 0], dtype),
            trainable=False,
            aggregation="none",
            name="state",
        )
        self.built = True

    def next(self) -> tf.Tensor:
        """A [2] seed never given before; different on every replica."""
        seed = tf.identity(self.state.value)
        self.state.assign(seed + tf.constant([0, 1], seed.dtype))
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return seed
        return tf.random.experimental.stateless_fold_in(seed, context.replica_id_in_sync_group)

    @property
    def num_drawn(self) -> tf.Tensor:
        """How many seeds have been given: the step, for a layer that is not told one."""
        return self.state.value[1]


def _drawn() -> int:
    """A seed that `keras.utils.set_random_seed` decides."""
    with tf.init_scope():  # A number also where a step is traced.
        return int(keras.random.randint([], 0, 2**31 - 1).numpy())


def two_seeds(seed: int | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Two seeds [2] made of a number, drawn where it is None; ValueError for what is no seed."""
    if seed is None:
        seed = _drawn()
    check_count(seed, "seed", 0, 2**63 - 1)
    return tf.constant([seed, 0], tf.int64), tf.constant([seed, 1], tf.int64)
