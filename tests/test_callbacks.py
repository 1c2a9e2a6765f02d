import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_direct_opt import callbacks
from tf_direct_opt.callbacks import Checkpoint, image_grid

IMAGES = np.eye(4)


def built_model(width=3):
    """As small as can be: what is saved is tested here, whole models in test_runs.py."""
    model = keras.Sequential([keras.layers.Dense(width, "relu"), keras.layers.Dense(1)])
    model.compile("adam", "mse", jit_compile=False)
    model.build((None, 4))
    return model


def fit(model, epochs, initial_epoch=0, callbacks=(), x=IMAGES):
    model.fit(
        x, np.ones(4), batch_size=2, initial_epoch=initial_epoch, epochs=epochs, verbose=0,
        shuffle=False, callbacks=[*callbacks],
    )  # fmt: skip


def epochs_in(folder):
    """Finished epochs of the files in a folder of checkpoints."""
    return sorted(int(path.name.split("-")[1]) for path in folder.iterdir())


def test_the_newest_checkpoint_and_the_one_before_it_stay(tmp_path):
    fit(built_model(), epochs=3, callbacks=[Checkpoint(tmp_path / "new")])
    assert epochs_in(tmp_path / "new") == [2, 3]


def test_a_run_killed_while_it_saves_goes_on_from_the_epoch_before(tmp_path, monkeypatch):
    model = built_model()
    fit(model, epochs=2, callbacks=[Checkpoint(tmp_path)])

    def killed(*_):
        raise KeyboardInterrupt

    for what, name in ((type(model), "save_weights"), (callbacks.os, "replace")):
        with monkeypatch.context() as patched:
            patched.setattr(what, name, killed)
            with pytest.raises(KeyboardInterrupt):
                fit(model, epochs=3, initial_epoch=2, callbacks=[Checkpoint(tmp_path)])
        assert Checkpoint(tmp_path).restore(model) == 2
        assert epochs_in(tmp_path) == [1, 2]


def test_a_model_that_diverged_is_not_kept(tmp_path):
    model = built_model()
    fit(model, epochs=1, callbacks=[Checkpoint(tmp_path)])
    nan = np.full([4, 4], np.nan)
    fit(model, epochs=2, initial_epoch=1, callbacks=[Checkpoint(tmp_path)], x=nan)
    assert np.isnan(model.trainable_weights[0].numpy()).any()
    assert epochs_in(tmp_path) == [1]


def test_nothing_to_restore(tmp_path):
    assert Checkpoint(tmp_path).restore(built_model()) == 0
    assert Checkpoint(tmp_path / "missing").restore(built_model()) == 0


def test_half_written_files_are_not_looked_at(tmp_path):
    (tmp_path / "unfinished.weights.h5").write_bytes(b"half")
    assert Checkpoint(tmp_path).restore(built_model()) == 0


def test_checkpoint_of_another_model_is_a_clear_error(tmp_path):
    fit(built_model(), epochs=1, callbacks=[Checkpoint(tmp_path)])
    with pytest.raises(ValueError, match=r"Expected a checkpoint of this model; received .*epoch"):
        Checkpoint(tmp_path).restore(built_model(width=5))


def test_a_damaged_checkpoint_is_never_loaded(tmp_path):
    """50 places over the whole file, and its end cut: the one before it is loaded, or none."""
    model = built_model()
    fit(model, epochs=1, callbacks=[Checkpoint(tmp_path)])
    first = [weight.numpy() for weight in model.weights]
    fit(model, epochs=2, initial_epoch=1, callbacks=[Checkpoint(tmp_path)])
    before, newest = sorted(tmp_path.iterdir())
    whole = newest.read_bytes()
    places = np.linspace(0, len(whole) - 1, 50).astype(int)
    damaged = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in places]
    damaged += [whole[: len(whole) // 2], b"", b"garbage"]
    restored = built_model()
    for content in damaged[::10]:
        newest.write_bytes(content)
        assert Checkpoint(tmp_path).restore(restored) == 1
    for a, b in zip(first, restored.weights, strict=True):
        np.testing.assert_array_equal(a, b.numpy())
    before.unlink()
    for content in damaged:
        newest.write_bytes(content)
        with pytest.raises(ValueError, match=r"Expected an undamaged checkpoint; received .*epoch"):
            Checkpoint(tmp_path).restore(restored)


def test_a_damaged_checkpoint_is_replaced_by_the_next(tmp_path):
    model = built_model()
    fit(model, epochs=2, callbacks=[Checkpoint(tmp_path)])
    newest = max(tmp_path.iterdir())
    newest.write_bytes(b"garbage")
    fit(model, epochs=2, initial_epoch=1, callbacks=[Checkpoint(tmp_path)])
    assert epochs_in(tmp_path) == [1, 2]
    assert Checkpoint(tmp_path).restore(built_model()) == 2


def test_a_checkpoint_without_checksum_is_not_passed_over(tmp_path):
    built_model().save_weights(tmp_path / "epoch-00003.weights.h5")
    with pytest.raises(ValueError, match="Expected an undamaged checkpoint"):
        Checkpoint(tmp_path).restore(built_model())


def test_image_grid_by_hand():
    grid = image_grid(tf.reshape(tf.range(3.0), [3, 1, 1]), columns=2)
    expected = [[0, 0.5, 1, 0.5], [0.5] * 4, [2, 0.5, 0, 0], [0.5, 0.5, 0, 0]]
    np.testing.assert_array_equal(grid[..., 0], expected)
    assert image_grid(tf.zeros([10, 4, 3, 1])).shape == (3 * 5, 4 * 4, 1)
    with pytest.raises(ValueError, match="Expected images of shape"):
        image_grid(tf.zeros([2, 3, 4, 3]))
