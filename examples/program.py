"""The main of every program that trains one model."""

import json
from collections.abc import Callable, Sequence

import experiment
from absl import flags

FLAGS = flags.FLAGS


def main(
    argv: list[str],
    prepare: Callable[[], experiment.Run],
    build_model: Callable,
    named: Sequence[str],
    make_feed: Callable | None = None,
) -> None:
    """Checks, trains, and prints JSON with the flags `named` and the figures of the test images.

    Args:
        argv: what absl left of the command line.
        prepare: completes and checks the flags, and opens the output folder.
        build_model: `batches.Feed` -> uncompiled model.
        named: flags that tell this run from others.
        make_feed: images -> `batches.Feed`; None for the images alone.
    """
    with experiment.input_errors():
        experiment.refuse_arguments(argv)
        run = prepare()
        # TensorFlow takes seconds to import; mistakes in a command line are answered before.
        import training

        figures = training.train(run, build_model, make_feed)
    print(json.dumps({**{name: FLAGS[name].value for name in named}, **figures}))
