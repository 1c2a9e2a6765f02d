"""Callbacks of a run: its checkpoints, its history, and TensorBoard with images."""

import csv
import math
import os
import pathlib
import re
import time
import warnings

import h5py
import keras
import numpy as np
import tensorflow as tf

from tf_direct_opt.files import digest, remove_temporaries, require_space, write_table
from tf_direct_opt.pictures import check_images, image_grid

_CHECKPOINT = re.compile(r"epoch-(\d+)(?:-([0-9a-f]{16}))?\.weights\.h5")


class Checkpoint(keras.callbacks.Callback):
    """Saves weights, optimizer and noise states after every epoch; restores the newest.

    The file of an epoch appears whole, under a name that carries the number of finished epochs and
    the first 16 digits of its SHA-256; a run killed at any point therefore goes on from the last
    epoch that it finished, and ends where the uninterrupted run would have ended, bit for bit on
    CPU, provided the batches are a function of the epoch. The last but one is kept as well: where
    the last was damaged since, the run goes on from that one, and ends the same.
    (`keras.callbacks.BackupAndRestore` writes in place, keeps the epoch in a second file, deletes
    both at the end, and forgets the states of Keras' seed generators, those of dropout for one.)

    Args:
        directory: folder of the checkpoints, made when the first one is saved.

    Example:
        checkpoint = Checkpoint("runs/a/checkpoints")
        initial_epoch = checkpoint.restore(model)   # 0 where there is nothing to restore
        model.fit(..., initial_epoch=initial_epoch, epochs=30, callbacks=[checkpoint])
    """

    def __init__(self, directory):
        super().__init__()
        self.directory = pathlib.Path(directory)
        self._unfinished = self.directory / "unfinished.weights.h5"

    def restore(self, model: keras.Model) -> int:
        """Loads the newest undamaged checkpoint into a built and compiled model.

        Returns:
            The number of epochs that are finished, 0 where there is no checkpoint.

        Raises:
            ValueError: there are checkpoints, but all are damaged, or of another model.
        """
        self._unfinished.unlink(missing_ok=True)
        saved = self._saved()
        if not saved:
            return 0
        whole = [entry for entry in saved if digest(entry[2])[:16] == entry[1]]
        if not whole:
            raise ValueError(
                f"Expected an undamaged checkpoint; received {saved[-1][2]}, whose bytes do not "
                "have the checksum of its name. Please start over in another folder."
            )
        finished, _, path = whole[-1]
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        try:
            with warnings.catch_warnings():
                # Keras leaves out the state of an optimizer that has other variables.
                warnings.filterwarnings("error", message="Skipping variable loading")
                model.load_weights(path)
            with h5py.File(path) as file:
                for name, state in _seed_states(model).items():
                    state.assign(file[name][()])
        except (OSError, KeyError, ValueError, RuntimeError, UserWarning) as error:
            said = " ".join(str(error).split())
            raise ValueError(
                f"Expected a checkpoint of this model; received {path}: {said} Please give the "
                "arguments of the run that wrote it, or start over in another folder."
            ) from error
        return finished

    def on_epoch_end(self, epoch, logs=None):
        if diverged(self.model, logs):
            return  # Nobody wants to go on from a model that diverged.
        self.directory.mkdir(parents=True, exist_ok=True)
        require_space(self.directory, bytes_of(self.model))
        self.model.save_weights(self._unfinished)
        with h5py.File(self._unfinished, "a") as file:
            for name, state in _seed_states(self.model).items():
                file[name] = state.numpy()
        name = f"epoch-{epoch + 1:05d}-{digest(self._unfinished)[:16]}.weights.h5"
        os.replace(self._unfinished, self.directory / name)
        saved = [path for finished, _, path in self._saved() if finished <= epoch]
        for _, _, path in self._saved():
            if path.name != name and path not in saved[-1:]:
                path.unlink()

    def _saved(self) -> list[tuple[int, str, pathlib.Path]]:
        """Finished epochs, checksum and file of every checkpoint, in the order of the epochs."""
        if not self.directory.is_dir():
            return []
        matches = [(_CHECKPOINT.fullmatch(path.name), path) for path in self.directory.iterdir()]
        return sorted((int(match[1]), match[2] or "none", path) for match, path in matches if match)


def bytes_of(model: keras.Model) -> int:
    """What a file of the model takes at most: HDF5 needs a few kilobytes a variable."""
    variables = [*model.variables, *model.optimizer.variables]
    sizes = [math.prod(each.shape) * tf.as_dtype(each.dtype).size for each in variables]
    return 2**20 + sum(4096 + size for size in sizes)


def _seed_states(model: keras.Model) -> dict[str, keras.Variable]:
    """The states of Keras' seed generators, which `save_weights` leaves out."""
    states = [v for v in model.variables if v.path.endswith("seed_generator_state")]
    return {f"seed_states/{index}": state for index, state in enumerate(states)}


class History(keras.callbacks.Callback):
    """One row of figures an epoch, kept as a CSV file.

    `seconds` and `cpu_seconds` are those of the epoch's training part: on a clock, and as the
    process used them on all cores together, which other work on the machine leaves alone. In
    `rows`, `epoch` is an integer, all else a float, and None where an epoch has no such figure
    (text, which logs seldom hold, stays text): the same whether the run was gone on with or not.

    Args:
        path: of the file.
        initial_epoch: number of finished epochs, whose rows are read from the file.

    Raises:
        ValueError: the file does not have the rows of the finished epochs; (in `fit`) another
            epoch than the next one, or a metric named as one of the columns.
    """

    def __init__(self, path, initial_epoch: int = 0):
        super().__init__()
        self.path = pathlib.Path(path)
        remove_temporaries(self.path)
        self.rows = read_history(self.path, initial_epoch) if initial_epoch else []

    def on_epoch_begin(self, epoch, logs=None):
        if epoch != len(self.rows):
            raise ValueError(
                f"Expected `fit` to go on with epoch {len(self.rows)}; received {epoch}. Please "
                f"give it initial_epoch={len(self.rows)}, the number of finished epochs."
            )
        self._start = _clocks()
        self._stop = None

    def on_test_begin(self, logs=None):
        self._stop = _clocks()

    def on_epoch_end(self, epoch, logs=None):
        stop = _clocks() if self._stop is None else self._stop
        seconds, cpu_seconds = stop - self._start
        if taken := {"epoch", "seconds", "cpu_seconds"} & (logs or {}).keys():
            raise ValueError(
                f"Expected metrics beside the history's own columns; received {sorted(taken)}. "
                "Please give another name."
            )
        row = {"seconds": seconds, "cpu_seconds": cpu_seconds, **(logs or {})}
        row = {"epoch": epoch, **{name: _number(value) for name, value in row.items()}}
        # Epochs without an evaluation leave its columns empty.
        columns = dict.fromkeys(name for row in [*self.rows, row] for name in row)
        self.rows[:] = [{**columns, **row} for row in [*self.rows, row]]
        if diverged(self.model, logs):
            return
        write_table(self.path, columns, self.rows)


def read_history(path: pathlib.Path, epochs: int) -> list[dict]:
    """The first `epochs` rows of a history, as `History` has them; all there or a ValueError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(_bad_history(path, epochs, error)) from error
    rows = list(csv.DictReader(text.splitlines()))[:epochs]
    for epoch in range(epochs):
        try:
            row = rows[epoch]
            whole = None not in row and None not in row.values() and int(row["epoch"]) == epoch
            _ = float(row["seconds"]), float(row["cpu_seconds"])
        except (IndexError, KeyError, ValueError, TypeError):
            whole = False
        if not whole:
            raise ValueError(_bad_history(path, epochs, f"no whole row of epoch {epoch}"))
    if not text.endswith("\n"):
        raise ValueError(_bad_history(path, epochs, "a last line that was cut"))
    return [
        {name: int(cell) if name == "epoch" else _number(cell) for name, cell in row.items()}
        for row in rows
    ]


def _number(value):
    """A figure, or the cell of one, as a float; None for an empty cell; else what it is."""
    try:
        return None if value is None or value == "" else float(value)
    except (TypeError, ValueError):
        return value  # A metric of several values, say, whose cell is its text.


def _bad_history(path, epochs, what) -> str:
    return (
        f"Expected the rows of {epochs} finished epochs in {path}; received {what}. Please put the "
        "file back, or start over in another folder."
    )


class DivergedError(ValueError):
    """Training came to numbers that are not finite."""


def diverged(model: keras.Model, logs: dict | None = None) -> bool:
    """Whether the loss of an epoch, or a weight after it, is not finite.

    The loss alone does not show it: on many CPUs the ReLU of a dense layer makes 0 of NaN, and a
    layer whose weights are NaN is then merely dead.
    """
    if logs is not None and not math.isfinite(logs.get("loss", 0.0)):
        return True
    return not all(np.isfinite(weight.numpy()).all() for weight in model.trainable_variables)


class TerminateOnNaN(keras.callbacks.TerminateOnNaN):
    """Keras' own, which looks at the loss of a batch, and at the weights after an epoch."""

    diverged = False
    """Whether the last epoch did."""

    def on_epoch_end(self, epoch, logs=None):
        self.diverged = diverged(self.model, logs)
        self.model.stop_training |= self.diverged


def _clocks() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


class TensorBoard(keras.callbacks.TensorBoard):
    """Keras' TensorBoard, with a model's `pictures` of every epoch under `log_dir`/images.

    Everything is on disk when the epoch ends, so that a killed run loses no finished epoch.

    Args:
        log_dir: folder of the event files.
        images: a few images to follow, [n, height, width], or with 1 or 3 channels; None for a
            model without `pictures`.
        **kwargs: as for `keras.callbacks.TensorBoard`.

    Raises:
        ValueError: images of another shape.
    """

    def __init__(
        self,
        log_dir,
        images=None,  # [n, *image]
        **kwargs,
    ):
        super().__init__(log_dir=str(log_dir), **kwargs)
        if images is not None:
            check_images(np.shape(images))
        self.images = images
        self._image_writer = None

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        writers = list(self._writers.values())
        if self.images is not None:
            if self._image_writer is None:
                self._image_writer = tf.summary.create_file_writer(f"{self.log_dir}/images")
            with self._image_writer.as_default():
                for name, images in self.model.pictures(tf.cast(self.images, tf.float32)).items():
                    tf.summary.image(name, image_grid(images)[tf.newaxis], step=epoch)
            writers.append(self._image_writer)
        for writer in writers:
            writer.flush()

    def on_train_end(self, logs=None):
        super().on_train_end(logs)
        if self._image_writer is not None:
            self._image_writer.close()
