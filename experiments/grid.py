"""Many runs of one training program, each in a folder of its own."""

import contextlib
import datetime
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType

from absl import flags
from absl.testing import flagsaver

from tf_direct_opt import files
from tf_direct_opt.runs import training

FLAGS = flags.FLAGS


flags.DEFINE_string(
    "shard",
    None,
    "i/n: train every n-th run only, from the i-th on; others train the rest in this --output_dir.",
)
flags.DEFINE_integer("processes", 1, "Runs that are trained at once on this machine.", 1)

# Set in the environment of a child of `in_processes`.
_CHILD = "TF_DIRECT_OPT_CHILD"


def refuse(instead: Mapping[str, str]) -> None:
    """Raises ValueError where a flag of one run was given that the grid decides.

    Args:
        instead: the flag of the grid that decides it, by the name of the run's.
    """
    for one, several in instead.items():
        if FLAGS[one].present:
            raise ValueError(f"Expected --{several} here; received --{one}. Please give a list.")


@contextlib.contextmanager
def folder():
    """Holds the folder of the grid, --output_dir; the part of it that is this shard's.

    Raises:
        ValueError: none was given, or another process fills it.
    """
    _end_with_parent()
    if FLAGS.output_dir is None:
        raise ValueError(
            "Expected --output_dir, the folder of all runs and their table; received none."
        )
    if FLAGS.distribute == "multi_worker":
        raise ValueError(
            "Expected --distribute=none or mirrored for many runs; received multi_worker. Please "
            "give --shard=i/n to divide them among machines."
        )
    path = files.expanded(FLAGS.output_dir)
    FLAGS.output_dir = str(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"Expected --output_dir to be a folder; received the file {path}.")
    first, count = _shard()
    with files.locked(path if count == 1 else path / f".shard-{first + 1}-of-{count}"):
        yield path


def own(cells: Sequence[dict]) -> Sequence[dict]:
    """The cells of this shard."""
    first, count = _shard()
    return cells[first::count]


def _shard() -> tuple[int, int]:
    """Number of the shard, from 0, and how many there are."""
    first, slash, count = (FLAGS.shard or "1/1").partition("/")
    well = slash and first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)
    if not well:
        raise ValueError(
            f"Expected --shard=i/n with i from 1 to n; received {FLAGS.shard!r}. Please give the "
            "number of this process, and how many there are."
        )
    return int(first) - 1, int(count)


@contextlib.contextmanager
def in_turn():
    """One shard after the other: for what all of them read and write.

    All at once where the file system has no locks, of which `folder` has warned: what they write
    is whole there as well, and that of the last.
    """
    import filelock

    lock = filelock.FileLock(pathlib.Path(FLAGS.output_dir) / ".turn")
    if FLAGS.shard is not None:
        try:
            lock.acquire()
        except (NotImplementedError, OSError) as error:
            if not files.has_no_locks(error):
                raise
    try:
        yield
    finally:
        lock.release()


def finished(name: str) -> bool:
    """Whether the run in that folder of the grid has come to its end."""
    return (pathlib.Path(FLAGS.output_dir) / name / "metrics.json").exists()


@contextlib.contextmanager
def reading(path: pathlib.Path, cure: str = "put it back, or start over in another folder"):
    """Names the file where what is in it is not what a program left there."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"Expected {path} as it was written; received a damaged file: {error!r}. Please {cure}."
        ) from error


def results_of(name: str) -> tuple[dict, list[dict]]:
    """What metrics.json says of a finished run, and the rows of its history.

    Raises:
        ValueError: one of the files is damaged.
    """
    from tf_direct_opt.callbacks import read_history

    folder = pathlib.Path(FLAGS.output_dir) / name
    path = folder / "metrics.json"
    with reading(path, "remove it: the same command makes it again"):
        metrics = json.loads(path.read_text(encoding="utf-8"))
        epochs = int(metrics["epochs"])
    return metrics, read_history(folder / "history.csv", epochs)


def say_left(names: Sequence[str]) -> int:
    """Says which of these runs have not come to their end; how many they are."""
    left = [name for name in names if not finished(name)]
    if left:
        training.say(f"{len(left)} of {len(names)} runs are left: {', '.join(left)}.")
    return len(left)


def in_processes(names: Sequence[str]) -> None:
    """Trains in --processes children, each with its own shard, if there are to be several.

    What they say goes to process-i.log in --output_dir. They end with this process, whatever ends
    it.

    Args:
        names: the folders of this process's runs.

    Raises:
        ValueError: one of them failed; the others came to their end.
    """
    processes, (first, count) = FLAGS.processes, _shard()
    if processes == 1:
        return
    children = {}
    with _signals_as_exceptions():
        try:
            for number in range(processes):
                shard = f"--shard={first + 1 + number * count}/{count * processes}"
                log = pathlib.Path(FLAGS.output_dir) / f"process-{number + 1}.log"
                command = [sys.executable, *sys.argv, shard, "--processes=1", "--verbose=2"]
                with log.open("w") as file:
                    children[log] = subprocess.Popen(
                        command,
                        stdin=subprocess.PIPE,  # Closed when this process ends.
                        stdout=file,
                        stderr=subprocess.STDOUT,
                        env={**os.environ, _CHILD: "1"},
                    )
            left = None
            while any(child.poll() is None for child in children.values()):
                if left != sum(not finished(name) for name in names):
                    left = say_left(names)
                time.sleep(0.5)
        finally:
            for child in children.values():
                child.terminate()
            for child in children.values():
                child.wait()
    for log, child in children.items():
        if child.returncode:
            lines = log.read_text(errors="replace").splitlines() or ["nothing"]
            raise ValueError(
                f"Expected all processes to succeed; one ended, see {log}, with: "
                f"{lines[-1].removeprefix('error: ')}"
            )


@contextlib.contextmanager
def _signals_as_exceptions():
    """SIGTERM and SIGHUP leave the block as an exception does, which would end at once."""

    def leave(number, frame):
        sys.exit(128 + number)

    # One that is ignored, as nohup has it, stays so.
    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) == signal.SIG_DFL
    ]
    for number in numbers:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _end_with_parent() -> None:
    """Ends a child of `in_processes` as soon as its parent has ended, be it by SIGKILL."""
    if os.environ.pop(_CHILD, None) is None:
        return

    def watch():
        os.read(0, 1)  # Nothing comes, but the end of the pipe.
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def check(cells: Iterable[dict], program: ModuleType) -> None:
    """Answers mistakes in any of the cells before hours of training.

    Args:
        cells: for each run the flags that it changes, name -> value; `output_dir` among them.
        program: with `prepare`, `make_feed` and `build_model`.
    """
    cells = list(cells)
    for changes in cells:
        with flagsaver.flagsaver(**changes, resume=True):
            program.prepare()
    import keras

    built = set()
    for changes in cells:
        # What fits one seed fits another.
        kind = {name: changes[name] for name in changes.keys() - {"seed", "output_dir"}}
        if str(sorted(kind.items())) in built:
            continue
        built.add(str(sorted(kind.items())))
        with flagsaver.flagsaver(**changes, resume=True):
            program.prepare()
            training.compiled(program.make_feed(), program.build_model)
        keras.backend.clear_session()


def trained(cells: Iterable[dict], program: ModuleType) -> Iterable[pathlib.Path]:
    """The folders of the runs, as they finish: kept if one was there, gone on with if it was cut.

    Says before each what is done and about how long the rest will take; one that diverges is
    named, and the others go on.
    """
    import keras

    from tf_direct_opt.callbacks import DivergedError

    cells = list(cells)
    seconds = []
    for number, changes in enumerate(cells):
        with flagsaver.flagsaver(**changes, resume=True), program.prepare() as run:
            if not run.finished:
                line = f"Run {number + 1} of {len(cells)}: {run.directory.name}"
                if seconds:
                    left = (len(cells) - number) * sum(seconds) / len(seconds)
                    line += f", about {datetime.timedelta(seconds=round(left))} left"
                training.say(f"{line}.")
                start = time.monotonic()
                try:
                    training.train(run, program.make_feed(), program.build_model)
                except DivergedError as error:
                    print(f"note: {run.directory.name}: {error}", file=sys.stderr)
                seconds.append(time.monotonic() - start)
                keras.backend.clear_session()
        yield run.directory


def write_table(name: str, columns: Iterable[str], rows: Iterable[dict]) -> pathlib.Path:
    """Writes a CSV file of that name into --output_dir, whole or not at all."""
    path = pathlib.Path(FLAGS.output_dir) / name
    files.write_table(path, columns, rows)
    return path
