"""Many runs of one training program, each in a folder of its own."""

import contextlib
import csv
import datetime
import pathlib
import time
from collections.abc import Iterable
from types import ModuleType

from absl import flags
from absl.testing import flagsaver

from tf_direct_opt import files
from tf_direct_opt.runs import training

FLAGS = flags.FLAGS


@contextlib.contextmanager
def folder():
    """Holds the folder of the grid, --output_dir.

    Raises:
        ValueError: none was given, or another process fills it.
    """
    if FLAGS.output_dir is None:
        raise ValueError(
            "Expected --output_dir, the folder of all runs and their table; received none."
        )
    path = pathlib.Path(FLAGS.output_dir).expanduser()
    FLAGS.output_dir = str(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"Expected --output_dir to be a folder; received the file {path}.")
    with files.locked(path):
        yield path


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
