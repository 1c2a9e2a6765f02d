import keras
import numpy as np
import pytest
import tensorflow as tf
from test_discrete_vae import fit, make_model, stripes

from tf_direct_opt.callbacks import Checkpoint, image_grid


def built_model(**config):
    model = make_model(**config)
    model.build((None, 6, 6))
    return model


def test_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    keras.utils.set_random_seed(0)
    whole = built_model()
    fit(whole, epochs=4)
    keras.utils.set_random_seed(0)
    first = built_model()
    fit(first, epochs=2, callbacks=[Checkpoint(tmp_path)])
    second = built_model()
    initial_epoch = Checkpoint(tmp_path).restore(second)
    assert initial_epoch == 2
    fit(second, epochs=4, initial_epoch=initial_epoch, callbacks=[Checkpoint(tmp_path)])
    for a, b in zip(whole.weights, second.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    for a, b in zip(whole.optimizer.variables, second.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_only_the_newest_checkpoint_stays(tmp_path):
    fit(built_model(), epochs=3, callbacks=[Checkpoint(tmp_path / "new")])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["epoch-00003.weights.h5"]


def test_a_model_that_diverged_is_not_kept(tmp_path):
    model = built_model(compile_options={"jit_compile": True})
    fit(model, epochs=1, callbacks=[Checkpoint(tmp_path)])
    model.fit(np.full([50, 6, 6], np.nan), batch_size=50, initial_epoch=1, epochs=2, verbose=0,
              callbacks=[Checkpoint(tmp_path)])  # fmt: skip
    assert np.isnan(model.trainable_weights[0].numpy()).any()
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-00001.weights.h5"]


def test_nothing_to_restore(tmp_path):
    assert Checkpoint(tmp_path).restore(built_model()) == 0
    assert Checkpoint(tmp_path / "missing").restore(built_model()) == 0


def test_half_written_temporaries_are_not_looked_at(tmp_path):
    (tmp_path / ".tmp-1-epoch-00009.weights.h5").write_bytes(b"half")
    assert Checkpoint(tmp_path).restore(built_model()) == 0


@pytest.mark.parametrize("damage", ["truncated", "garbage", "another model"])
def test_bad_checkpoint_is_a_clear_error(tmp_path, damage):
    fit(built_model(), epochs=1, callbacks=[Checkpoint(tmp_path)])
    (path,) = tmp_path.iterdir()
    model = built_model(num_categories=5) if damage == "another model" else built_model()
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "garbage":
        path.write_bytes(b"garbage")
    with pytest.raises(
        ValueError, match=r"Expected a readable checkpoint of this model in .*epoch"
    ):
        Checkpoint(tmp_path).restore(model)


def test_image_grid_by_hand():
    grid = image_grid(tf.reshape(tf.range(3.0), [3, 1, 1]), columns=2)
    expected = [[0, 0.5, 1, 0.5], [0.5] * 4, [2, 0.5, 0, 0], [0.5, 0.5, 0, 0]]
    np.testing.assert_array_equal(grid[..., 0], expected)
    assert image_grid(tf.zeros([10, 4, 3, 1])).shape == (3 * 5, 4 * 4, 1)
    with pytest.raises(ValueError, match="Expected images of shape"):
        image_grid(tf.zeros([2, 3, 4, 3]))


def test_inputs_of_the_tests_are_binary():
    assert set(np.unique(stripes())) == {0.0, 1.0}
