"""What every training program shares: flags, output folder, resuming, results.

A program defines the flags of its model, builds it, and calls `run`; the order of a run and the
files it leaves are decided here, once.
"""

import contextlib
import csv
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import sys
import time

import data
import keras
import numpy as np
import tensorflow as tf
from absl import flags, logging

import tf_direct_opt as tdo
from tf_direct_opt.callbacks import Checkpoint, TensorBoard, decoded_codes, image_grid
from tf_direct_opt.files import replacing

FLAGS = flags.FLAGS

flags.DEFINE_enum("dataset", "digits", data.DATASETS, "Data set.")
flags.DEFINE_string("data_dir", None, "TFDS folder [$TFDS_DATA_DIR or ~/tensorflow_datasets].")
flags.DEFINE_bool("download", False, "Let TFDS download and prepare a missing data set.")
flags.DEFINE_integer("epochs", 30, "Epochs in all.", lower_bound=1)
flags.DEFINE_integer("batch_size", 100, "Batch size, over all replicas.", lower_bound=1)
flags.DEFINE_float("learning_rate", 1e-3, "Adam's learning rate.", lower_bound=0.0)
flags.DEFINE_integer("seed", 0, "Same seed, same weights (on CPU).", lower_bound=0)
flags.DEFINE_bool("deterministic", False, "Deterministic kernels where they are not (GPU).")
flags.DEFINE_string("output_dir", None, "Folder of the results [a new one under runs/].")
flags.DEFINE_bool("resume", False, "Go on with the run in --output_dir, if there is one.")
flags.DEFINE_bool("jit_compile", None, "XLA [Keras decides: on a GPU only].")
flags.DEFINE_integer("steps_per_execution", 1, "Training steps in one call.", lower_bound=1)
flags.DEFINE_enum("distribute", "none", ["none", "mirrored"], "tf.distribute strategy.")
flags.DEFINE_enum("dtype_policy", "float32", ["float32", "mixed_float16", "mixed_bfloat16"], "")
flags.DEFINE_integer("verbose", 1, "0 silent, 1 progress bar, 2 a line an epoch.", 0, 2)

# Flags that say where and how far to run, not what: they may change when a run is resumed.
_FREE_ON_RESUME = {"data_dir", "download", "epochs", "output_dir", "resume", "verbose"}


def run(argv, build_model, title: str) -> dict:
    """Trains, evaluates and writes the results; returns the test figures.

    Args:
        argv: what absl left of the command line, the program's name alone.
        build_model: steps_an_epoch -> uncompiled keras.Model. Flags are checked before.
        title: start of the name of a new output folder.
    """
    with _input_errors():
        if len(argv) > 1:
            raise ValueError(f"Expected flags only; received the arguments {argv[1:]}.")
        if FLAGS.distribute == "mirrored" and FLAGS.jit_compile:
            raise ValueError(
                "Expected --distribute=mirrored without --jit_compile, which Keras cannot "
                "combine; please leave one of them out."
            )
        images = data.load(FLAGS.dataset, FLAGS.data_dir, FLAGS.download)
        steps = len(images.train) // FLAGS.batch_size
        if steps < 1 or steps % FLAGS.steps_per_execution:
            raise ValueError(
                f"Expected --steps_per_execution to divide the {steps} steps of an epoch, and "
                f"--batch_size to be at most {len(images.train)}; received "
                f"{FLAGS.steps_per_execution} and {FLAGS.batch_size}."
            )
        directory = _open_directory(title)
        keras.utils.set_random_seed(FLAGS.seed)
        if FLAGS.deterministic:
            tf.config.experimental.enable_op_determinism()
        keras.config.set_dtype_policy(FLAGS.dtype_policy)
        with _strategy().scope():
            model = build_model(steps)
            model.compile(
                optimizer=keras.optimizers.Adam(FLAGS.learning_rate),
                jit_compile=_jit_compile(),
                steps_per_execution=FLAGS.steps_per_execution,
            )
            model.build((None, *images.image_shape))
            model.optimizer.build(model.trainable_variables)
        checkpoint = Checkpoint(directory / "checkpoints")
        initial_epoch = checkpoint.restore(model) if FLAGS.resume else 0
    if initial_epoch:
        logging.info("Resumed after epoch %d of %d.", initial_epoch, FLAGS.epochs)

    history = History(directory / "history.csv", initial_epoch)
    batches, _ = data.training_batches(
        images.train, FLAGS.batch_size, FLAGS.seed, initial_epoch, FLAGS.epochs
    )
    model.fit(
        batches,
        initial_epoch=initial_epoch,
        epochs=FLAGS.epochs,
        steps_per_epoch=steps,
        shuffle=False,
        validation_data=data.evaluation_batches(images.valid),
        verbose=FLAGS.verbose,
        # A checkpoint says that its epoch is finished, so it comes after what the epoch left.
        callbacks=[
            TensorBoard(directory / "tensorboard", images.valid[:25], write_graph=False),
            history,
            keras.callbacks.TerminateOnNaN(),
            checkpoint,
        ],
    )
    test = model.evaluate(data.evaluation_batches(images.test), return_dict=True, verbose=0)
    test = {"negative_elbo": test.pop("loss"), **test}
    _write_results(directory, model, test, history.rows, images)
    return {
        "dataset": FLAGS.dataset,
        "seed": FLAGS.seed,
        "epochs": FLAGS.epochs,
        "output_dir": str(directory),
        "test": test,
    }


class History(keras.callbacks.Callback):
    """One row of figures an epoch, with the seconds of its training part, kept as a CSV file."""

    def __init__(self, path: pathlib.Path, initial_epoch: int):
        super().__init__()
        self.path = path
        self.rows = []
        if initial_epoch:
            with path.open(newline="") as file:
                self.rows = [
                    {name: float(value) for name, value in row.items()}
                    for row in csv.DictReader(file)
                ][:initial_epoch]

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()
        self._seconds = None

    def on_test_begin(self, logs=None):
        self._seconds = time.perf_counter() - self._start

    def on_epoch_end(self, epoch, logs=None):
        seconds = self._seconds or time.perf_counter() - self._start
        self.rows.append({"epoch": epoch, "seconds": seconds, **logs})
        with replacing(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.rows[0])
            writer.writeheader()
            writer.writerows(self.rows)


def program_flags() -> dict[str, flags.Flag]:
    """The flags of the program and of this module, by name: neither absl's nor TFDS' own."""
    return {flag.name: flag for flag in FLAGS.get_key_flags_for_module(sys.argv[0])}


def _open_directory(title: str) -> pathlib.Path:
    """Makes or reopens the output folder, with `flags.txt` in it."""
    directory = FLAGS.output_dir
    if directory is None:
        if FLAGS.resume:
            raise ValueError("Expected --output_dir with --resume: the folder of the run.")
        directory = os.path.join("runs", f"{title}-{time.strftime('%Y%m%d-%H%M%S')}")
        FLAGS.output_dir = directory
    directory = pathlib.Path(directory)
    flagfile = directory / "flags.txt"
    settings = {
        name: flag.serialize()
        for name, flag in sorted(program_flags().items())
        if name != "resume" and flag.value is not None
    }
    if flagfile.exists():
        if not FLAGS.resume:
            raise ValueError(
                f"Expected a new --output_dir; {directory} holds a run already. Please add "
                "--resume to go on with it, or give another folder."
            )
        _require_same_settings(flagfile, settings)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with replacing(flagfile) as temporary:
            temporary.write_text("\n".join(settings.values()) + "\n")
    except OSError as error:
        raise ValueError(
            f"Expected --output_dir to be a folder that can be written; received {directory}: "
            f"{error.strerror}. Please give another one."
        ) from error
    logging.info("Results go to %s.", directory)
    return directory


def _require_same_settings(flagfile: pathlib.Path, settings: dict[str, str]) -> None:
    names = {line: name for name, line in settings.items()}
    before, now = set(flagfile.read_text().splitlines()), set(settings.values())
    changed = [
        line
        for line in sorted(before ^ now)
        if names.get(line, line.lstrip("-").split("=")[0]) not in _FREE_ON_RESUME
    ]
    if changed:
        raise ValueError(
            f"Expected the flags of the run in {flagfile} to resume it; these differ, in one or "
            f"the other: {' '.join(changed)}. Please add --flagfile={flagfile}."
        )


def _strategy() -> tf.distribute.Strategy:
    if FLAGS.distribute == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def _jit_compile():
    if FLAGS.distribute == "mirrored":
        return False
    return "auto" if FLAGS.jit_compile is None else FLAGS.jit_compile


def _write_results(directory, model, test, rows, images) -> None:
    with replacing(directory / "model.keras") as temporary:
        model.save(temporary)
    grid = image_grid(decoded_codes(model)).numpy()
    pixels = np.kron(grid[..., 0], np.ones((4, 4)))[..., np.newaxis]
    with replacing(directory / "codes.png") as temporary:
        temporary.write_bytes(tf.io.encode_png(np.uint8(np.round(255 * pixels))).numpy())
    config = model.get_config()
    figures = {
        "test": test,
        "schedules": {
            "epsilon": config["estimator"]["config"].get("epsilon"),
            "kl_weight": config["kl_weight"],
        },
        "seed": FLAGS.seed,
        "epochs": len(rows),
        "seconds_per_epoch": statistics.median(row["seconds"] for row in rows),
        "num_images": {part: len(getattr(images, part)) for part in ("train", "valid", "test")},
        "flags": {name: flag.value for name, flag in sorted(program_flags().items())},
        "versions": {
            "python": platform.python_version(),
            "tf_direct_opt": tdo.__version__,
            **{
                package: importlib.metadata.version(package)
                for package in ("tensorflow", "keras", "tensorflow-probability", "numpy")
            },
        },
    }
    with replacing(directory / "metrics.json") as temporary:
        temporary.write_text(json.dumps(figures, indent=2) + "\n")


@contextlib.contextmanager
def _input_errors():
    """Turns a ValueError about what the user gave into one line and exit code 1."""
    try:
        yield
    except ValueError as error:
        sys.exit(f"error: {error}")
