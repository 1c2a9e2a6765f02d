import keras
import numpy as np
import pytest
import tensorflow as tf
from replicas import two_replicas

from tf_direct_opt.seeds import SeedStream


def test_same_seed_same_stream_and_no_seed_twice():
    streams = [SeedStream(3), SeedStream(3), SeedStream(4)]
    seeds = np.array([[stream.next().numpy() for _ in range(5)] for stream in streams])
    np.testing.assert_array_equal(seeds[0], seeds[1])
    assert len(np.unique(seeds.reshape(-1, 2), axis=0)) == 10
    assert int(streams[0].num_drawn) == 5


def test_without_a_seed_keras_decides():
    keras.utils.set_random_seed(1)
    first, second = SeedStream().next().numpy(), SeedStream().next().numpy()
    keras.utils.set_random_seed(1)
    np.testing.assert_array_equal(SeedStream().next(), first)
    assert np.any(first != second)


def test_replicas_draw_different_seeds():
    strategy = two_replicas()
    with strategy.scope():
        stream = SeedStream(0)
    step = tf.function(lambda: strategy.run(stream.next))
    seeds = [strategy.experimental_local_results(step()) for _ in range(3)]
    assert len(np.unique(np.array(seeds).reshape(-1, 2), axis=0)) == 6


def test_state_is_saved_with_the_weights(tmp_path):
    class Model(keras.Model):
        def __init__(self, seed):
            super().__init__()
            self.seeds = SeedStream(seed)

        def call(self, x):
            return x

    model, other = Model(1), Model(2)
    model.seeds.next()
    for each in (model, other):
        each.build((1, 1))
    model.save_weights(tmp_path / "m.weights.h5")
    other.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(model.seeds.next(), other.seeds.next())


def test_seed_has_to_be_an_integer():
    with pytest.raises(ValueError, match=r"Expected `seed` to be an integer .*; received 0.5"):
        SeedStream(0.5)
