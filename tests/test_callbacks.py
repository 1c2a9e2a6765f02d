import errno

import keras
import numpy as np
import pytest
from test_discrete_vae import fit, make_model, stripes

from tf_direct_opt import callbacks
from tf_direct_opt.callbacks import Checkpoint, History, TensorBoard


def built_model(**config):
    model = make_model(**config)
    model.build((None, 6, 6))
    return model


def plain(units=3):
    """A model of Keras alone, for what no model has a part in."""
    model = keras.Sequential(
        [
            keras.Input([6, 6]), keras.layers.Flatten(), keras.layers.Dense(units, "relu"),
            keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(1),
        ]
    )  # fmt: skip
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    return model


def fit_plain(model, **options):
    images = stripes()
    model.fit(images, np.ones(len(images)), batch_size=50, verbose=0, **options)


def epochs_in(folder):
    """Finished epochs of the files in a folder of checkpoints."""
    return sorted(int(path.name.split("-")[1]) for path in folder.iterdir())


@pytest.mark.slow  # The same of a whole run, of which this is a part, is fast.
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


def test_the_newest_checkpoint_and_the_one_before_it_stay(tmp_path):
    fit(built_model(), epochs=3, callbacks=[Checkpoint(tmp_path / "new")])
    assert epochs_in(tmp_path / "new") == [2, 3]


def test_a_run_killed_while_it_saves_goes_on_from_the_epoch_before(tmp_path, monkeypatch):
    model = plain()
    fit_plain(model, epochs=2, callbacks=[Checkpoint(tmp_path)])

    def killed(*_):
        raise KeyboardInterrupt

    for what, name in ((type(model), "save_weights"), (callbacks.os, "replace")):
        with monkeypatch.context() as patched:
            patched.setattr(what, name, killed)
            with pytest.raises(KeyboardInterrupt):
                fit_plain(model, epochs=3, initial_epoch=2, callbacks=[Checkpoint(tmp_path)])
        assert Checkpoint(tmp_path).restore(model) == 2
        assert epochs_in(tmp_path) == [1, 2]


@pytest.mark.parametrize("what", ["loss", "weight"])
def test_a_model_that_diverged_is_not_kept(tmp_path, what):
    model, kept = plain(), [Checkpoint(tmp_path / "checkpoints"), History(tmp_path / "history.csv")]
    fit_plain(model, epochs=1, callbacks=kept)
    loss = np.nan
    if what == "weight":  # Behind a ReLU, which on many CPUs makes 0 of NaN.
        loss, weight = 0.5, model.trainable_weights[0]
        weight.assign(np.full(weight.shape, np.nan))
    for callback in kept:
        callback.on_epoch_begin(1)
        callback.on_epoch_end(1, {"loss": loss})
    assert epochs_in(tmp_path / "checkpoints") == [1]
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 2


def test_nothing_to_restore(tmp_path):
    assert Checkpoint(tmp_path).restore(plain()) == 0
    assert Checkpoint(tmp_path / "missing").restore(plain()) == 0


def test_a_checkpoint_that_the_disk_has_no_room_for_is_not_begun(tmp_path, monkeypatch):
    asked = []

    def full(directory, num_bytes):
        asked.append(num_bytes)
        if len(asked) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(directory))

    monkeypatch.setattr("tf_direct_opt.callbacks.require_space", full)
    with pytest.raises(OSError, match="No space left on device"):
        fit_plain(plain(), epochs=3, callbacks=[Checkpoint(tmp_path)])
    (checkpoint,) = tmp_path.iterdir()
    assert checkpoint.stat().st_size < asked[0] < 2 * 2**20
    assert Checkpoint(tmp_path).restore(plain()) == 1


def test_half_written_files_are_not_looked_at(tmp_path):
    (tmp_path / "unfinished.weights.h5").write_bytes(b"half")
    assert Checkpoint(tmp_path).restore(plain()) == 0


def test_checkpoint_of_another_model_is_a_clear_error(tmp_path):
    fit_plain(plain(), epochs=1, callbacks=[Checkpoint(tmp_path)])
    with pytest.raises(ValueError, match=r"Expected a checkpoint of this model; received .*epoch"):
        Checkpoint(tmp_path).restore(plain(units=5))


def test_a_damaged_checkpoint_is_never_loaded(tmp_path):
    """50 places over the whole file, and its end cut: the one before it is loaded, or none."""
    model = plain()
    fit_plain(model, epochs=1, callbacks=[Checkpoint(tmp_path)])
    first = [weight.numpy() for weight in model.weights]
    fit_plain(model, epochs=2, initial_epoch=1, callbacks=[Checkpoint(tmp_path)])
    before, newest = sorted(tmp_path.iterdir())
    whole = newest.read_bytes()
    places = np.linspace(0, len(whole) - 1, 50).astype(int)
    damaged = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in places]
    restored = plain()
    newest.write_bytes(damaged[20])
    assert Checkpoint(tmp_path).restore(restored) == 1
    for a, b in zip(first, restored.weights, strict=True):
        np.testing.assert_array_equal(a, b.numpy())
    before.unlink()
    for content in (*damaged, whole[: len(whole) // 2], b"", b"garbage"):
        newest.write_bytes(content)
        with pytest.raises(ValueError, match=r"Expected an undamaged checkpoint; received .*epoch"):
            Checkpoint(tmp_path).restore(restored)


def test_a_damaged_checkpoint_is_replaced_by_the_next(tmp_path):
    model = plain()
    fit_plain(model, epochs=2, callbacks=[Checkpoint(tmp_path)])
    newest = max(tmp_path.iterdir())
    newest.write_bytes(b"garbage")
    fit_plain(model, epochs=2, initial_epoch=1, callbacks=[Checkpoint(tmp_path)])
    assert epochs_in(tmp_path) == [1, 2]
    assert Checkpoint(tmp_path).restore(plain()) == 2


def test_a_checkpoint_without_checksum_is_not_passed_over(tmp_path):
    plain().save_weights(tmp_path / "epoch-00003.weights.h5")
    with pytest.raises(ValueError, match="Expected an undamaged checkpoint"):
        Checkpoint(tmp_path).restore(plain())


def epochs_of_history(history, first, *logs):
    history.set_model(plain())
    for epoch, figures in enumerate(logs, first):
        history.on_epoch_begin(epoch)
        history.on_epoch_end(epoch, figures)


def test_rows_are_numbers_and_the_same_after_a_resume(tmp_path):
    logs = (
        {"loss": 10.0, "val_loss": 0.1},
        {"loss": 9.0, "steps": np.int64(3)},
        {"loss": np.float32(0.1), "val_loss": float("nan"), "each": "[0.5 1.]"},
    )
    whole = History(tmp_path / "history.csv")
    epochs_of_history(whole, 0, *logs)
    text = whole.path.read_bytes()
    resumed = History(whole.path, 3)
    np.testing.assert_equal(resumed.rows, whole.rows)
    for row, expected in zip(resumed.rows, whole.rows, strict=True):
        assert list(map(type, row.values())) == list(map(type, expected.values()))
    assert min(row["loss"] for row in resumed.rows) == np.float32(0.1)
    assert [row["epoch"] for row in resumed.rows] == [0, 1, 2]
    assert [row["steps"] for row in resumed.rows] == [None, 3.0, None]
    assert type(resumed.rows[0]["epoch"]) is int
    assert type(resumed.rows[0]["seconds"]) is float
    epochs_of_history(resumed, 3, {"loss": 1.0})
    lines = resumed.path.read_bytes().splitlines(keepends=True)
    assert b"".join(lines[:-1]) == text
    assert lines[2].endswith(b",9.0,,3.0,\r\n")
    assert lines[-1].endswith(b",1.0,,,\r\n")


def test_a_metric_named_as_a_column_is_refused(tmp_path):
    history = History(tmp_path / "history.csv")
    history.on_epoch_begin(0)
    with pytest.raises(ValueError, match=r"Expected metrics beside the .* received \['epoch'\]"):
        history.on_epoch_end(0, {"loss": 1.0, "epoch": 3.0})
    assert not history.path.exists()


@pytest.mark.parametrize("cell", ["", "a", "1.0"])
def test_a_history_without_its_epochs_is_damaged(tmp_path, cell):
    (tmp_path / "a").write_text(f"epoch,seconds,cpu_seconds,loss\n{cell},1.0,1.0,2.0\n")
    with pytest.raises(ValueError, match="received no whole row of epoch 0"):
        History(tmp_path / "a", 1)


def test_tensorboard_refuses_images_it_cannot_show_before_the_first_epoch(tmp_path):
    with pytest.raises(ValueError, match="Expected images of shape"):
        TensorBoard(tmp_path, images=np.zeros([4, 36]))


def test_inputs_of_the_tests_are_binary():
    assert set(np.unique(stripes())) == {0.0, 1.0}
