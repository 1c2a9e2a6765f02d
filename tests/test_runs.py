"""A run of any Keras model: what it leaves, refuses, and how it goes on."""

import csv
import json
import pathlib
import shutil

import keras
import numpy as np
import programs
import pytest
import tensorflow as tf
from absl import flags
from run_folders import checkpoints_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tf_direct_opt import runs
from tf_direct_opt.callbacks import Checkpoint, DivergedError
from tf_direct_opt.runs import batches
from tf_direct_opt.runs.events import drop_events
from tf_direct_opt.runs.settings import Settings

EPOCHS = 4


def model_of_ones_own():
    """Nothing of this package in it; its dropout draws anew every step."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [keras.layers.Dense(4, "relu"), keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.build((None, 3))
    return model


def examples(first, last):
    """Batches of the epochs from `first` to `last`, each in its own order."""
    x = tf.constant(np.random.default_rng(0).normal(size=[40, 3]), tf.float32)
    return batches.index_batches(40, 10, 5, first, last).map(
        lambda index: (tf.gather(x, index), tf.reduce_sum(tf.gather(x, index), 1))
    )


def held_out():
    return tf.data.Dataset.from_tensor_slices((np.eye(3), np.ones(3))).batch(3)


def fit(folder, epochs=EPOCHS, resume=False, settings=None, more=()):
    with runs.Run(folder, settings or {"width": 4}, resume) as run:
        model = model_of_ones_own()
        done = run.restore(model)
        model.fit(
            examples(done, epochs), initial_epoch=done, epochs=epochs, steps_per_epoch=4,
            verbose=0, shuffle=False, validation_data=held_out(),
            callbacks=[*run.callbacks(), *more],
        )  # fmt: skip
        if epochs == EPOCHS:
            run.save(model, {"loss": 0.0})
    return model


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, fit(folder)


class Cut(keras.callbacks.Callback):
    """Ends a process, as it were, when an epoch is over and its checkpoint is not yet written."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


def steps_in_events(folder):
    """The steps of every scalar, by its name, and how often each is there."""
    found = {}
    for part in ("train", "validation"):
        events = EventAccumulator(str(folder / "tensorboard" / part)).Reload()
        for tag in events.Tags()["tensors"]:
            found[part, tag] = [event.step for event in events.Tensors(tag)]
    return found


def test_resumed_it_is_the_uninterrupted_run_bit_for_bit(whole, tmp_path):
    folder, expected = whole
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, more=[Cut(2)])
    assert not (tmp_path / "metrics.json").exists()
    resumed = fit(tmp_path, resume=True)
    for a, b in zip(expected.variables, resumed.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    for a, b in zip(expected.optimizer.variables, resumed.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in folder.iterdir()}
    assert steps_in_events(tmp_path) == steps_in_events(folder)


def test_an_epoch_between_its_events_and_its_checkpoint_stands_once(whole, tmp_path):
    folder, _ = whole

    def die(epoch, logs):
        if epoch == 2:
            raise KeyboardInterrupt

    with runs.Run(tmp_path, {"width": 4}) as run:
        model = model_of_ones_own()
        run.restore(model)
        *before, checkpoint = run.callbacks()
        assert isinstance(checkpoint, Checkpoint)  # An epoch is finished when all else is there.
        dying = keras.callbacks.LambdaCallback(on_epoch_end=die)
        with pytest.raises(KeyboardInterrupt):
            model.fit(
                examples(0, 4), epochs=4, steps_per_epoch=4, verbose=0, shuffle=False,
                validation_data=held_out(), callbacks=[*before, dying, checkpoint],
            )  # fmt: skip
    assert 2 in steps_in_events(tmp_path)["train", "epoch_loss"]
    fit(tmp_path, resume=True)
    expected = steps_in_events(folder)
    assert expected["train", "epoch_loss"] == [0, 1, 2, 3]
    assert expected["validation", "evaluation_loss_vs_iterations"] == [4, 8, 12, 16]
    assert steps_in_events(tmp_path) == expected


def test_an_event_file_cut_in_its_last_event_is_read(whole, tmp_path):
    (path,) = (whole[0] / "tensorboard/train").glob("events*")
    content = path.read_bytes()
    copy = tmp_path / "train" / path.name
    copy.parent.mkdir()
    copy.write_bytes(content[:-5])
    drop_events(tmp_path, 3, 12)
    steps = [e.step for e in EventAccumulator(str(copy.parent)).Reload().Tensors("epoch_loss")]
    assert steps == [0, 1, 2]


def test_events_of_others_are_left_alone(tmp_path):
    for part, name in (("train", "my_norm"), ("mine", "epoch_loss")):
        with tf.summary.create_file_writer(str(tmp_path / part)).as_default():
            for step in range(8):
                tf.summary.scalar(name, 1.0, step)
    drop_events(tmp_path, 2, 4)
    for part, name in (("train", "my_norm"), ("mine", "epoch_loss")):
        events = EventAccumulator(str(tmp_path / part)).Reload().Tensors(name)
        assert [event.step for event in events] == list(range(8))


def test_epochs_that_are_not_the_next_ones_are_refused(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with runs.Run(tmp_path, {"width": 4}, resume=True) as run:
        model = model_of_ones_own()
        run.restore(model)
        with pytest.raises(ValueError, match="Expected `fit` to go on with epoch 4; received 0"):
            model.fit(
                examples(0, 1), steps_per_epoch=4, verbose=0, shuffle=False,
                callbacks=run.callbacks(),
            )  # fmt: skip
    kept = {path: path.read_bytes() for path in before if "tensorboard" not in path.parts}
    assert kept == {path: before[path] for path in kept}


def test_the_state_of_another_optimizer_is_refused(whole):
    model = model_of_ones_own()
    model.compile(keras.optimizers.SGD(0.01), "mse")
    with pytest.raises(ValueError, match=r"Expected a checkpoint of this model.*Skipping variable"):
        Checkpoint(whole[0] / "checkpoints").restore(model)


def test_a_run_that_is_not_entered_restores_nothing(whole):
    with pytest.raises(ValueError, match="call `restore` within `with run:`"):
        runs.Run(whole[0], {"width": 5}).restore(model_of_ones_own())


def test_a_finished_run_that_goes_on_is_not_finished(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, epochs=EPOCHS + 2, resume=True, more=[Cut(EPOCHS + 1)])
    assert not runs.Run(tmp_path).finished


def test_a_run_that_diverges_in_its_first_epoch_leaves_no_results(tmp_path):
    for _ in range(2):  # The same command may try again.
        with runs.Run(tmp_path, {"width": 4}, resume=True) as run:
            model = model_of_ones_own()
            model.optimizer.learning_rate = 1e30
            run.restore(model)
            model.fit(
                examples(0, 2), epochs=2, steps_per_epoch=4, verbose=0, shuffle=False,
                callbacks=run.callbacks(),
            )  # fmt: skip
            with pytest.raises(DivergedError, match="training diverged"):
                run.save(model, {"loss": 0.0})
        assert {path.name for path in tmp_path.iterdir()} == {"tensorboard"}


class Poison(keras.callbacks.Callback):
    """Makes one weight NaN in an epoch, whatever the loss is then."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            weight = self.model.trainable_weights[0]
            weight.assign(np.full(weight.shape, np.nan))


def test_a_run_whose_weights_diverge_ends_there_and_is_not_finished(tmp_path):
    with runs.Run(tmp_path, {"width": 4}) as run:
        model = model_of_ones_own()
        run.restore(model)
        history = model.fit(
            examples(0, 4), epochs=4, steps_per_epoch=4, verbose=0, shuffle=False,
            callbacks=[Poison(), *run.callbacks()],
        )  # fmt: skip
        with pytest.raises(DivergedError, match="finite weights after every epoch"):
            run.save(model, {"loss": 0.0})
    assert history.epoch == [0, 1, 2]
    assert [path.name[:11] for path in checkpoints_of(tmp_path)] == ["epoch-00001", "epoch-00002"]
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 3
    assert not {"metrics.json", "model.keras"} & {path.name for path in tmp_path.iterdir()}


def test_settings_are_written_when_an_epoch_is_done(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "a", more=[Cut(0)])
    # Nothing has begun: a corrected command may use the folder, with resume or without.
    assert not (tmp_path / "a/flags.txt").exists()
    fit(tmp_path / "a", epochs=1, settings={"width": 5})
    assert (tmp_path / "a/flags.txt").read_text() == "--width=5\n"


def test_settings_as_lines_of_a_flagfile():
    settings = {"b": True, "a": False, "n": 3, "none": None, "list": [1, 2], "x": 0.5}
    assert Settings(settings).lines() == ["--noa", "--b", "--list=1,2", "--n=3", "--x=0.5"]


def test_settings_become_pythons_own():
    given = {"data": pathlib.Path("x"), "k": np.int64(3), "on": np.True_, "p": (np.float64(0.5), 1)}
    found = runs.Run("a", given).settings
    assert found == {"data": "x", "k": 3, "on": True, "p": (0.5, 1)}
    kinds = [str, int, bool, float]
    assert [type(value) for value in (*list(found.values())[:3], found["p"][0])] == kinds


@pytest.mark.parametrize("value", [object(), {1}, 1j, np.zeros(2), b"a", [{"b": print}]])
def test_settings_that_json_cannot_hold(value):
    with pytest.raises(ValueError, match=r"^Expected .*`a` in the settings to be .*; received .*"):
        runs.Run("a", {"a": value})


@pytest.mark.parametrize("text", ["a\nb", "a\r", "\u2028", "\x1c", ["a", "\x85"], "\udcff"])
def test_settings_of_several_lines_could_not_be_resumed(text):
    with pytest.raises(ValueError, match=r"Expected every setting .* one line .*; received '--n"):
        runs.Run("a", {"note": text})


def test_free_is_a_list_of_names(tmp_path):
    with pytest.raises(ValueError, match=r"received 'disk'. Please give \['disk'\]."):
        runs.Run("a", {"i": 1}, free="disk")
    for value, line in ((True, "--noise"), ("a", "--noise=a")):
        settings = Settings({"noise": value}, free=("ise",))
        assert settings.lines() == settings.fixed_lines() == [line]
    assert Settings({"cache": True}, free=["cache"]).fixed_lines() == []
    path = tmp_path / "flags.txt"
    path.write_text("--noise\n")
    with pytest.raises(ValueError, match="in one of the two only are --noise"):
        Settings({}, free=("ise",)).require_same(path)
    path.write_text("--nocache\n")
    Settings({"cache": True}, free=["cache"]).require_same(path)
    path.write_text("--nonoise\n")
    Settings({"noise": True}, free=["noise"]).require_same(path)


def test_an_empty_list_is_not_none(tmp_path):
    settings = Settings({"decoder_units": [], "encoder_units": None, "k": 3})
    settings.write(tmp_path / "flags.txt")
    found = flags.FlagValues()
    for name in ("decoder_units", "encoder_units"):
        flags.DEFINE_list(name, None, "Widths.", flag_values=found)
    flags.DEFINE_integer("k", None, "Categories.", flag_values=found)
    found(["program", f"--flagfile={tmp_path / 'flags.txt'}"])
    assert (found.decoder_units, found.encoder_units, found.k) == ([], None, 3)


def test_checkpoints_that_are_gone_are_missed(tmp_path):
    """Training anew would overwrite what is there; a run killed in its first epoch has none."""
    folder = begun(tmp_path).directory
    (folder / "flags.txt").write_text("")
    (folder / "history.csv").write_text("epoch,seconds,cpu_seconds\n0,1.0,1.0\n")
    with runs.Run(folder, resume=True) as run:
        assert run.restore(Saved()) == 0
    for name, content in (
        ("history.csv", "epoch,seconds,cpu_seconds\n0,1.0,1.0\n1,1.0,1.0\n"),
        ("metrics.json", "{}"),
    ):
        before = (folder / name).read_bytes() if (folder / name).exists() else b""
        (folder / name).write_text(content)
        missed = r"Expected the checkpoints .* received none. Please"
        with runs.Run(folder, resume=True) as run, pytest.raises(ValueError, match=missed):
            run.restore(Saved())
        (folder / name).write_bytes(before)


class Saved:
    """A model that is only saved."""

    variables = trainable_variables = ()
    optimizer = keras.optimizers.SGD()

    def save(self, path):
        path.write_text("model")


def begun(folder, settings=None, rows=1):
    """A run whose history has so many rows, without the training."""
    run = runs.Run(folder, settings)
    with run:
        run.restore(Saved())
    run._history.rows = [{"epoch": i, "seconds": 2.0 + i} for i in range(rows)]
    return run


def test_figures_become_what_json_holds(tmp_path):
    run = begun(tmp_path, {"data": tmp_path, "k": np.int64(3)}, rows=2)
    run._begin()
    run.save(
        Saved(), {"loss": np.float32(2), "elbo": np.array(np.nan)},
        counts=[np.int64(1), float("inf")], of={np.int64(3): -np.inf},
    )  # fmt: skip
    found = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert found.pop("versions").keys() >= {"python", "keras"}
    assert found == {
        "test": {"loss": 2.0, "elbo": None}, "counts": [1, None], "of": {"3": None}, "epochs": 2,
        "seconds_per_epoch": 2.5, "flags": {"data": str(tmp_path), "k": 3},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        (0, {}, "Expected a finished epoch; received none. Please give callbacks=run.callbacks()"),
        (1, {"a": object()}, "Expected `a` in the figures to be .*; received one of type object"),
        *((1, {name: 1}, f"beside the run's own .*; received {name}. Please")
          for name in ("epochs", "seconds_per_epoch", "flags", "versions")),
    ],
)  # fmt: skip
def test_a_run_that_cannot_be_saved_writes_nothing(tmp_path, rows, more, message):
    with pytest.raises(ValueError, match=message):
        begun(tmp_path, rows=rows).save(Saved(), {"loss": 1.0}, **more)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("resume", "settings", "message"),
    [
        (False, {"width": 4}, "holds a run already. Please add --resume"),
        (True, {"width": 5}, "in one of the two only are --width=4 --width=5"),
    ],
)
def test_folder_of_another_run(whole, resume, settings, message):
    with pytest.raises(ValueError, match=message):
        runs.Run(whole[0], settings, resume).check()


def test_settings_that_are_free_may_change(whole):
    free = runs.Run(whole[0], {"width": 5}, resume=True, free=("width",))
    free.check()
    assert free.settings == {"width": 5}
    with pytest.raises(ValueError, match="in one of the two only are --width=4"):
        runs.Run(whole[0], {"width": 5}, resume=True).check()


@pytest.mark.parametrize("name", ["history.csv", "model.keras", "metrics.json", "checkpoints/a"])
@pytest.mark.parametrize("resume", [False, True])
def test_results_that_no_run_left_are_not_touched(tmp_path, name, resume):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"which holds {name[:-2] if '/' in name else name}, but"):
        fit(tmp_path, resume=resume)
    assert (tmp_path / name).read_text() == "mine"


def test_other_files_are_left_alone(tmp_path):
    kept = ("notes.txt", ".tmp-notes", ".tmp-1-notes.txt", "checkpoint")
    for name in kept:
        (tmp_path / name).write_text("mine")
    (tmp_path / ".tmp-2-history.csv").mkdir()
    fit(tmp_path, epochs=1)
    assert {(tmp_path / name).read_text() for name in kept} == {"mine"}
    assert (tmp_path / ".tmp-2-history.csv").is_dir()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("checkpoints", "a folder"), ("tensorboard", "a folder"), ("history.csv", "a file"),
        ("flags.txt", "a file"), ("metrics.json", "a file"),
    ],
)  # fmt: skip
def test_folders_where_files_go_and_the_reverse(tmp_path, name, kind):
    if kind == "a folder":
        (tmp_path / name).write_text("")
    else:
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=f"Expected .*{name} to be {kind}"):
        runs.Run(tmp_path).check()


def test_damaged_settings(tmp_path):
    (tmp_path / "flags.txt").write_bytes(b"--width=4\n\xff\xfe")
    with pytest.raises(ValueError, match="received a damaged file"):
        runs.Run(tmp_path, {"width": 4}, resume=True).check()
    (tmp_path / "flags.txt").write_text("--wid")
    with pytest.raises(ValueError, match="received others, or a damaged file"):
        runs.Run(tmp_path, {"width": 4}, resume=True).check()


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "cut"
    fit(folder, epochs=2)
    return folder


@pytest.mark.parametrize("damage", ["deleted", "emptied", "cut", "cut in a number", "binary"])
def test_damaged_history(whole, cut, tmp_path, damage):
    _, model = whole
    shutil.copytree(cut, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "history.csv"
    text = path.read_text()
    if damage == "deleted":
        path.unlink()
    elif damage == "binary":
        path.write_bytes(b"\xff\xfe" + text.encode())
    else:
        path.write_text(
            {
                "emptied": "",
                "cut": text[: text.rindex("\n1,") + 1],
                "cut in a number": text[:-2],
            }[damage]
        )
    with (
        runs.Run(tmp_path, {"width": 4}, resume=True) as run,
        pytest.raises(ValueError, match="Expected the rows of 2 finished epochs"),
    ):
        run.restore(model)


def test_two_processes_in_one_folder(tmp_path):
    script = tmp_path / "second.py"
    folder = tmp_path / "run"
    second = f"with runs.Run({str(folder)!r}, {{'width': 4}}, True): pass"
    script.write_text(f"from tf_direct_opt import runs\n{second}\n")
    with runs.Run(folder, {"width": 4}) as run:
        model = model_of_ones_own()
        run.restore(model)
        model.fit(
            examples(0, 2),
            epochs=2,
            steps_per_epoch=4,
            verbose=0,
            shuffle=False,
            callbacks=run.callbacks(),
        )
        code, _, err = programs.run(script)
        assert code == 1
        assert "Expected a folder that no other process is filling; received" in err
    rows = list(csv.DictReader((folder / "history.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert len(checkpoints_of(folder)) == 2
    assert not (folder / ".lock").exists()


def test_a_folder_that_cannot_be_made():
    for name in ("/proc/nothing", "a" * 300, "/dev/null"):
        with (
            pytest.raises(ValueError, match="Expected --output_dir to be a folder that can be"),
            runs.Run(name),
        ):
            pass
    with pytest.raises(ValueError, match="received an empty name"):
        runs.Run("")
