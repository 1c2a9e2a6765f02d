"""A folder of results that a killed process can go on with."""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import sys
import typing
from collections.abc import Collection, Mapping

from tf_direct_opt import files
from tf_direct_opt.runs.settings import Settings, plain

if typing.TYPE_CHECKING:
    from tf_direct_opt.callbacks import History

SETTINGS = "flags.txt"
FOLDERS = ("checkpoints", "tensorboard")
FILES = (
    "history.csv",
    "model.keras",
    "metrics.json",
    "codes.png",
    "confusion.png",
    "reconstructions.png",
    "samples.png",
)


class Run:
    """A folder of results, held by one process at a time, that a killed one can go on with.

    In the folder: flags.txt, the settings, from the end of the first epoch on; history.csv;
    checkpoints/; events for TensorBoard under tensorboard/; at the end model.keras and
    metrics.json. Each is whole or not there. Gone on with, a run ends where it would have ended:
    bit for bit on a CPU with as many threads, if the batches of an epoch are a function of the
    epoch, not of those before, and nothing counts outside of the model: no callback such as
    EarlyStopping, no `keras.random` without a `SeedGenerator` of a layer.

    Args:
        directory: of the results; made if it is not there.
        settings: what decides the results, by name; written to flags.txt. Text, numbers, booleans,
            None and paths, or lists, tuples and mappings of them; each of one line.
        resume: go on with the run in the folder, if there is one, under the same settings.
        free: names of settings that may change on the way.

    Raises:
        ValueError: settings of another kind, or of several lines; a single text for `free`.
            (`check`, and on entering) the folder holds another run, or results that no run left,
            is held by another process, damaged, or cannot be written.

    Example:
        >>> import keras, numpy as np, tempfile, tensorflow as tf
        >>> from tf_direct_opt import runs
        >>> data = tf.data.Dataset.from_tensor_slices((np.eye(8), np.arange(8.0))).batch(2)
        >>> with runs.Run(tempfile.mkdtemp(), {"units": 3}, resume=True) as run:
        ...     model = keras.Sequential([keras.layers.Dense(3), keras.layers.Dense(1)])
        ...     model.compile("adam", "mse")
        ...     model.build((None, 8))
        ...     done = run.restore(model)
        ...     _ = model.fit(data, initial_epoch=done, epochs=4, verbose=0,
        ...                   shuffle=False, callbacks=run.callbacks())
        ...     run.save(model, {"loss": model.evaluate(data, verbose=0)})
        >>> sorted(path.name for path in run.directory.iterdir())
        ['checkpoints', 'flags.txt', 'history.csv', 'metrics.json', 'model.keras', 'tensorboard']
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        settings: Mapping[str, object] | None = None,
        resume: bool = False,
        free: Collection[str] = (),
    ):
        if not str(directory):
            raise ValueError(
                "Expected a folder for the results; received an empty name. Please give one."
            )
        if not isinstance(resume, bool):
            raise ValueError(f"Expected `resume` to be True or False; received {resume!r}.")
        self.directory = files.expanded(directory)
        self._settings = Settings(settings or {}, free)
        self.resume = resume
        self._lock = contextlib.ExitStack()
        self._entered = False
        self._initial_epoch = 0
        self._history: History | None = None

    @property
    def settings(self) -> dict:
        """What decides the results, of Python's own kinds."""
        return self._settings.values

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return (self.directory / "metrics.json").exists()

    @property
    def rows(self) -> list[dict]:
        """A row of figures for each finished epoch, after `restore`; None where it has none."""
        return self._restored("rows").rows

    def check(self) -> None:
        """Raises the ValueErrors that entering the run would, and leaves nothing behind."""
        with self._folder_errors():
            self._check()

    def __enter__(self) -> "Run":
        self.check()
        with self._folder_errors():
            self._lock.enter_context(files.locked(self.directory))
        try:
            self.check()  # Another process may have filled the folder until it was locked.
            for name in (SETTINGS, *FILES):
                files.remove_temporaries(self.directory / name)
        except BaseException:
            self._lock.close()
            raise
        self._entered = True
        return self

    def __exit__(self, *_) -> None:
        self._entered = False
        self._lock.close()

    def restore(self, model) -> int:
        """Loads what the run has come to into a built and compiled model.

        Returns:
            The number of finished epochs, `initial_epoch` of `fit`; 0 for a new run.

        Raises:
            ValueError: the checkpoints or the history are damaged, or of another model; the run
                is not entered.
        """
        if not self._entered:
            raise ValueError(
                "Expected a run that holds its folder; received one that is not entered. Please "
                "call `restore` within `with run:`."
            )
        from tf_direct_opt import callbacks
        from tf_direct_opt.runs import events

        checkpoint = callbacks.Checkpoint(self.directory / "checkpoints")
        self._initial_epoch = checkpoint.restore(model) if self._begun else 0
        if self._begun and not self._initial_epoch:
            self._require_no_second_epoch()
        self._history = callbacks.History(self.directory / "history.csv", self._initial_epoch)
        if self._begun:
            events.drop_events(
                self.directory / "tensorboard",
                self._initial_epoch,
                int(model.optimizer.iterations.numpy()),
            )
        return self._initial_epoch

    def callbacks(self, images=None) -> list:
        """Callbacks of `fit` that leave what a run leaves, after `restore`.

        Args:
            images: [n, *image] a few images for the `pictures` of the model, if it has any.
        """
        import keras

        from tf_direct_opt import callbacks

        history = self._restored("callbacks()")
        check = callbacks.TerminateOnNaN()

        def begin(epoch, logs):
            if not check.diverged:
                # A finished run that goes on is not finished.
                (self.directory / "metrics.json").unlink(missing_ok=True)
                self._begin()

        # A checkpoint says that its epoch is finished, so it comes after what the epoch left.
        return [
            check,
            keras.callbacks.LambdaCallback(on_epoch_end=begin),
            callbacks.TensorBoard(self.directory / "tensorboard", images, write_graph=False),
            history,
            callbacks.Checkpoint(self.directory / "checkpoints"),
        ]

    def save(self, model, test: Mapping[str, float], **more) -> None:
        """Writes model.keras and, with what the run was, metrics.json; or nothing, and raises.

        Args:
            model: as `fit` left it.
            test: its figures; those that are not finite become null, as all of metrics.json.
            **more: further entries of metrics.json.

        Raises:
            callbacks.DivergedError: a weight, or the loss of the first epoch, is not finite.
            ValueError: no epoch is finished; an entry has the name of one of the run's own, or is
                nothing that JSON can hold.
        """
        from tf_direct_opt import callbacks

        rows = self._restored("save").rows
        if not rows:
            raise ValueError(
                "Expected a finished epoch; received none. Please give callbacks=run.callbacks() "
                "to fit."
            )
        own = {
            "epochs": len(rows),
            "seconds_per_epoch": statistics.median(row["seconds"] for row in rows),
            "flags": dict(sorted(self.settings.items())),
            "versions": _versions(),
        }
        if taken := sorted(own.keys() & more.keys()):
            raise ValueError(
                f"Expected further entries beside the run's own {', '.join(own)}; received "
                f"{', '.join(taken)}. Please give other names."
            )
        text = json.dumps(plain("the figures", {"test": dict(test), **more, **own}))
        figures = json.loads(text, parse_constant=lambda _: None)
        if not self._begun or callbacks.diverged(model):
            raise callbacks.DivergedError(
                "Expected a finite loss and finite weights after every epoch; received others: "
                "training diverged. The last finite checkpoint, where there is one, is kept; "
                "please start again with a lower learning rate."
            )
        files.require_space(self.directory, callbacks.bytes_of(model))
        with files.replacing(self.directory / "model.keras") as temporary:
            model.save(temporary)
        with files.replacing(self.directory / "metrics.json") as temporary:
            temporary.write_text(json.dumps(figures, indent=2) + "\n")

    def _restored(self, what: str) -> "History":
        if self._history is None:
            raise ValueError(f"Expected `restore(model)` before `{what}`; please call it.")
        return self._history

    @property
    def _begun(self) -> bool:
        return (self.directory / SETTINGS).exists()

    @contextlib.contextmanager
    def _folder_errors(self):
        try:
            yield
        except OSError as error:
            raise ValueError(
                "Expected --output_dir to be a folder that can be written; received "
                f"{self.directory}: {error.strerror}. Please give another one."
            ) from error

    def _check(self) -> None:
        if self.directory.exists() and not self.directory.is_dir():
            raise NotADirectoryError(None, "Not a directory")
        self._require_kinds()
        if self._begun:
            if not self.resume:
                raise ValueError(
                    f"Expected a new --output_dir; received {self.directory}, which holds a run "
                    "already. Please add --resume (resume=True) to go on with it, or give another "
                    "folder."
                )
            self._settings.require_same(self.directory / SETTINGS)
        else:
            found = [name for name in FILES if (self.directory / name).exists()]
            checkpoints = self.directory / "checkpoints"
            found += ["checkpoints"] if checkpoints.is_dir() and any(checkpoints.iterdir()) else []
            if found:
                raise ValueError(
                    f"Expected a new --output_dir; received {self.directory}, which holds "
                    f"{', '.join(found)}, but no {SETTINGS} of a run. Please give another folder."
                )
        exists = next(path for path in (self.directory, *self.directory.parents) if path.exists())
        if not (exists.is_dir() and os.access(exists, os.W_OK | os.X_OK)):
            raise PermissionError(None, f"{exists} cannot be written")

    def _require_kinds(self) -> None:
        """Folders where folders go, files where files go."""
        for names, right, kind in (
            (FOLDERS, pathlib.Path.is_dir, "a folder"),
            ((SETTINGS, *FILES), pathlib.Path.is_file, "a file"),
        ):
            for path in (self.directory / name for name in names):
                if os.path.lexists(path) and not right(path):
                    raise ValueError(
                        f"Expected {path} to be {kind}; received something else. Please move it, "
                        "or give another --output_dir."
                    )

    def _require_no_second_epoch(self) -> None:
        """A run that was killed in its first epoch has no checkpoint, any other one has."""
        history = self.directory / "history.csv"
        lines = history.read_bytes().count(b"\n") if history.is_file() else 0
        if self.finished or lines > 2:  # Of the header and of one epoch.
            raise ValueError(
                f"Expected the checkpoints of the run in {self.directory / 'checkpoints'}; "
                "received none. Please put them back, or start over in another folder."
            )

    def _begin(self) -> None:
        """Writes the settings: from now on the folder is this run's."""
        with files.replacing(self.directory / SETTINGS) as temporary:
            self._settings.write(temporary)


def _versions() -> dict[str, str]:
    packages = ("tensorflow", "keras", "tensorflow-probability", "numpy")
    return {
        "python": platform.python_version(),
        "tf_direct_opt": sys.modules["tf_direct_opt"].__version__,
        **{package: importlib.metadata.version(package) for package in packages},
    }
