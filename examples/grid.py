"""Many runs of one training program, each in a folder of its own."""

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
            training.train(run, build_model, make_feed or training.image_feed)
            keras.backend.clear_session()
    return run.directory
