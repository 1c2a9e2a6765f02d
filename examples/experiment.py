"""What comes before training in every program: flags, their errors, the output folder.

TensorFlow is not imported here: a mistake in a command line is answered at once. `training.py`
does the rest.
"""

import contextlib
import dataclasses
import os
import pathlib
import sys
import time

import data
from absl import flags

FLAGS = flags.FLAGS

flags.DEFINE_enum("dataset", "digits", data.DATASETS, "Data set.")
flags.DEFINE_string("data_dir", None, "TFDS folder [$TFDS_DATA_DIR or ~/tensorflow_datasets].")
flags.DEFINE_bool("download", False, "Let TFDS download and prepare a missing data set.")
flags.DEFINE_integer("epochs", 100, "Epochs in all.", lower_bound=1)
flags.DEFINE_integer("batch_size", 100, "Batch size, over all replicas.", lower_bound=1)
flags.DEFINE_float("learning_rate", 3e-3, "Adam's learning rate, at its highest.", 0.0)
flags.DEFINE_enum(
    "learning_rate_schedule", "cosine", ["cosine", "constant"], "cosine: to 0 over --epochs."
)
flags.DEFINE_integer("seed", 0, "Same seed, same weights (on CPU).", lower_bound=0)
flags.DEFINE_bool("deterministic", False, "Deterministic kernels where they are not (GPU).")
flags.DEFINE_string("output_dir", None, "Folder of the results [a new one under runs/].")
flags.DEFINE_bool("resume", False, "Go on with the run in --output_dir, if there is one.")
flags.DEFINE_bool("jit_compile", None, "XLA [Keras decides: on a GPU only].")
flags.DEFINE_integer("steps_per_execution", 1, "Training steps in one call.", lower_bound=1)
flags.DEFINE_enum("distribute", "none", ["none", "mirrored"], "tf.distribute strategy.")
flags.DEFINE_enum(
    "dtype_policy", "float32", ["float32", "mixed_float16", "mixed_bfloat16"], "Keras' policy."
)
flags.DEFINE_enum("watch", "valid", ["valid", "test"], "Images evaluated while training.")
flags.DEFINE_integer("watch_every", 1, "Epochs from one such evaluation to the next.", 1)
flags.DEFINE_integer("verbose", 1, "0 silent, 1 progress bar, 2 a line an epoch.", 0, 2)

# Flags that say where to run, not what: they may change when a run is resumed.
_FREE_ON_RESUME = {"data_dir", "download", "output_dir", "resume", "verbose"}


@contextlib.contextmanager
def input_errors():
    """Turns a ValueError about what the user gave into one line and exit code 1."""
    try:
        yield
    except ValueError as error:
        sys.exit(f"error: {error}")


@dataclasses.dataclass(frozen=True)
class Run:
    """A folder for results, and the flags of the program that fills it."""

    directory: pathlib.Path
    flags: dict[str, flags.Flag]


def refuse_arguments(argv: list[str]) -> None:
    """Raises ValueError where absl left more of the command line than the program's name."""
    if len(argv) > 1:
        raise ValueError(f"Expected flags only; received the arguments {argv[1:]}.")


def prepare(module: str, title: str) -> Run:
    """Checks the flags against each other and opens the output folder, `flags.txt` in it.

    Args:
        module: absl's name of the module whose key flags describe the run.
        title: start of the name of a new output folder.

    Raises:
        ValueError: flags that do not fit together, data that is not there, or an output folder
            that holds another run or cannot be written.
    """
    if FLAGS.distribute == "mirrored" and FLAGS.jit_compile:
        raise ValueError(
            "Expected --distribute=mirrored without --jit_compile, which Keras cannot combine; "
            "please leave one of them out."
        )
    if FLAGS.resume and FLAGS.output_dir is None:
        raise ValueError("Expected --output_dir with --resume: the folder of the run.")
    data.require_prepared(FLAGS.dataset, FLAGS.data_dir, FLAGS.download)
    if FLAGS.output_dir is None:
        FLAGS.output_dir = os.path.join("runs", f"{title}-{time.strftime('%Y%m%d-%H%M%S')}")
    # Key flags: neither absl's own nor those of TFDS.
    run = Run(
        pathlib.Path(FLAGS.output_dir),
        {flag.name: flag for flag in FLAGS.get_key_flags_for_module(module)},
    )
    flagfile = run.directory / "flags.txt"
    settings = {
        name: flag.serialize()
        for name, flag in sorted(run.flags.items())
        if name != "resume" and flag.value is not None
    }
    if flagfile.exists():
        if not FLAGS.resume:
            raise ValueError(
                f"Expected a new --output_dir; {run.directory} holds a run already. Please add "
                "--resume to go on with it, or give another folder."
            )
        _require_same_settings(flagfile, settings)
    try:
        run.directory.mkdir(parents=True, exist_ok=True)
        temporary = run.directory / ".tmp-flags.txt"
        temporary.write_text("\n".join(settings.values()) + "\n")
        temporary.replace(flagfile)
    except OSError as error:
        raise ValueError(
            f"Expected --output_dir to be a folder that can be written; received {run.directory}: "
            f"{error.strerror}. Please give another one."
        ) from error
    say(f"Results go to {run.directory}.")
    return run


def say(line: str) -> None:
    """Prints a line for somebody who watches, unless --verbose=0."""
    if FLAGS.verbose:
        print(line, flush=True)


def _require_same_settings(flagfile: pathlib.Path, settings: dict[str, str]) -> None:
    before, now = set(flagfile.read_text().splitlines()), set(settings.values())
    free = tuple(f"--{prefix}{name}" for name in _FREE_ON_RESUME for prefix in ("", "no"))
    changed = [line for line in sorted(before ^ now) if line.split("=")[0] not in free]
    if changed:
        raise ValueError(
            f"Expected the flags of the run in {flagfile} to resume it; these are in one of the "
            f"two only: {' '.join(changed)}. Please add --flagfile={flagfile}."
        )
