"""Many runs of one training program, each in a folder of its own."""

import contextlib
import csv
import datetime
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
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


@contextlib.contextmanager
def folder():
    """Holds the folder of the grid, --output_dir; the part of it that is this shard's.

    Raises:
        ValueError: none was given, or another process fills it.
    """
    if FLAGS.output_dir is None:
        raise ValueError(
            "Expected --output_dir, the folder of all runs and their table; received none."
        )
    if FLAGS.distribute == "multi_worker":
        raise ValueError(
            "Expected --distribute=none or mirrored for many runs; received multi_worker. Please "
            "give --shard=i/n to divide them among machines."
        )
    path = pathlib.Path(FLAGS.output_dir).expanduser()
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
    """One shard after the other: for what all of them read and write."""
    import filelock

    if FLAGS.shard is None:
        yield
    else:
        with filelock.FileLock(pathlib.Path(FLAGS.output_dir) / ".turn"):
            yield


def finished(name: str) -> bool:
    """Whether the run in that folder of the grid has come to its end."""
    return (pathlib.Path(FLAGS.output_dir) / name / "metrics.json").exists()


def say_left(names: Sequence[str]) -> int:
    """Says which of these runs have not come to their end; how many they are."""
    left = [name for name in names if not finished(name)]
    if left:
        training.say(f"{len(left)} of {len(names)} runs are left: {', '.join(left)}.")
    return len(left)


def in_processes(names: Sequence[str]) -> None:
    """Trains in --processes children, each with its own shard, if there are to be several.

    What they say goes to process-i.log in --output_dir.

    Args:
        names: the folders of this process's runs.

    Raises:
        ValueError: one of them failed; the others came to their end.
    """
    processes, (first, count) = FLAGS.processes, _shard()
    if processes == 1:
        return
    children = {}
    for number in range(processes):
        shard = f"--shard={first + 1 + number * count}/{count * processes}"
        log = pathlib.Path(FLAGS.output_dir) / f"process-{number + 1}.log"
        with log.open("w") as file:
            command = [sys.executable, *sys.argv, shard, "--processes=1", "--verbose=2"]
            children[log] = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    left = None
    while any(child.poll() is None for child in children.values()):
        if left != sum(not finished(name) for name in names):
            left = say_left(names)
        time.sleep(0.5)
    for log, child in children.items():
        if child.returncode:
            line = (log.read_text().splitlines() or ["nothing"])[-1].removeprefix("error: ")
            raise ValueError(
                f"Expected all processes to succeed; one ended, see {log}, with: {line}"
            )


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

    Says before each what is done and about how long the rest will take.
    """
    import keras

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
                training.train(run, program.make_feed(), program.build_model)
                seconds.append(time.monotonic() - start)
                keras.backend.clear_session()
        yield run.directory


def write_table(name: str, columns: Iterable[str], rows: Iterable[dict]) -> pathlib.Path:
    """Writes a CSV file of that name into --output_dir, whole or not at all."""
    path = pathlib.Path(FLAGS.output_dir) / name
    with files.replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path
