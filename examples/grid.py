"""Many runs of one training program, each in a folder of its own."""

import csv
import pathlib
from collections.abc import Callable, Iterable

import experiment
from absl import flags
from absl.testing import flagsaver

FLAGS = flags.FLAGS


def check(cells: Iterable[dict], prepare: Callable[[], experiment.Run]) -> None:
    """Answers mistakes in any of the cells before hours of training.

    Args:
        cells: for each run the flags that it changes, name -> value; `output_dir` among them.
        prepare: of the program.
    """
    for changes in cells:
        with flagsaver.flagsaver(**changes, resume=True):
            prepare()


def trained(
    changes: dict,
    prepare: Callable[[], experiment.Run],
    build_model: Callable,
    make_feed: Callable | None = None,
) -> pathlib.Path:
    """The folder of one finished run: kept if it was there, gone on with if it was cut."""
    import keras
    import training

    with flagsaver.flagsaver(**changes, resume=True):
        run = prepare()
        if not (run.directory / "metrics.json").exists():
            training.train(run, build_model, make_feed)
            keras.backend.clear_session()
    return run.directory


def write_table(name: str, columns: Iterable[str], rows: Iterable[dict]) -> pathlib.Path:
    """Writes a CSV file of that name into --output_dir, whole or not at all."""
    from tf_direct_opt.files import replacing

    path = pathlib.Path(FLAGS.output_dir) / name
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path
