"""Models on two replicas: what one device says, with batches of unequal sizes and none at all."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from replicas import MODELS, seen, two_replicas

from tf_direct_opt.models import DiscreteVAE

WITHOUT_NOISE = {
    "exact": {"untrained", "history", "evaluated", "weights", "predicted"},
    "supervised": {"untrained", "weights", "predicted"},  # An evaluation draws Gaussians.
}


def assert_equal(one, other, path):
    """Figures equal to 1e-5; weights and what is made of them to 1e-4: Adam enlarges a rounding."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for name in one:
            assert_equal(one[name], other[name], f"{path}/{name}")
    else:
        error = 1e-4 if path.startswith(("predicted", "weights")) else 1e-5
        np.testing.assert_allclose(other, one, rtol=error, atol=error, err_msg=path)


def assert_like_one_process(found, case):
    """What one device says, of all that is the same whatever is drawn."""
    one = seen(tf.distribute.get_strategy(), *case)
    assert_finite(found)
    for name in WITHOUT_NOISE.get(case[0], {"untrained"}) & one.keys():
        assert_equal(one[name], found[name], name)


def assert_finite(found, path=""):
    for name, value in found.items():
        if isinstance(value, dict):
            assert_finite(value, f"{path}/{name}")
        else:
            assert np.isfinite(value).all(), f"{path}/{name}"


def test_an_empty_replica_changes_nothing():
    case = ("exact", 2, 201, False)
    found = seen(two_replicas(), *case)
    assert not np.array_equal(*found["seeds"])  # The noise of each is another.
    assert_like_one_process(found, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", [(1, 201), (10, 1401)])
@pytest.mark.parametrize("name", MODELS)
def test_all_models(name, case):
    assert_like_one_process(seen(two_replicas(), name, *case), (name, *case))


def test_a_loss_scale_that_overflows_on_one_replica_skips_the_step_on_all():
    keras.config.set_dtype_policy("mixed_float16")
    with two_replicas().scope():
        model = DiscreteVAE(1, 2, "exact", hidden_units=4, seed=0)
        model.compile("adam")
        model.build((None, 3, 3))
        before = model.get_weights()
        images = np.zeros([8, 3, 3], np.float32)
        weights = np.ones(8, np.float32)
        weights[[0, 6]] = 1e37  # Of the first batch on the first replica, then on the second.
        options = {"sample_weight": weights, "batch_size": 4, "shuffle": False, "verbose": 0}
        model.fit(images, np.zeros(8), **options)
    for value, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, expected)
    for scale in model.optimizer.dynamic_scale.value.values:
        assert scale.numpy() == 2**8


@pytest.mark.parametrize("name", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_an_optimizer_that_clips_is_refused(name):
    # One device clips the gradient; Keras would clip the share of each replica.
    with two_replicas().scope():
        optimizer = keras.optimizers.Adam(**{name: 1.0})
        if name == "global_clipnorm":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        model = DiscreteVAE(1, 2, "exact", hidden_units=4)
        model.compile(optimizer)
        with pytest.raises(ValueError, match=f"Expected an optimizer without `{name}` on several"):
            model.fit(np.zeros([4, 3, 3], np.float32), verbose=0)


def test_replicas_evaluate_with_noise_of_their_own():
    strategy = two_replicas()
    with strategy.scope():
        model = MODELS["direct"]()
    seeds = strategy.experimental_local_results(
        strategy.run(tf.function(lambda: model.evaluation_seed()))
    )
    assert np.any(seeds[0] != seeds[1])


def test_batches_by_hand_are_refused():
    with two_replicas().scope():
        model = MODELS["exact"]()
        model.compile("adam", jit_compile=False)
    with pytest.raises(ValueError, match="Expected `fit` or `evaluate` on 2 replicas"):
        model.train_on_batch(np.zeros([4, 4, 5], "float32"))
    with pytest.raises(ValueError, match="Expected `fit` or `evaluate` on 2 replicas"):
        model.test_on_batch(np.zeros([4, 4, 5], "float32"))
