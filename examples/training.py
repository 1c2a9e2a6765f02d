"""Training, evaluation and results: the same for every program.

The order of a run, how it is resumed and the files it leaves are decided here, once.
"""

import contextlib
import csv
import functools
import importlib.metadata
import json
import pathlib
import platform
import statistics
import time
from collections.abc import Callable

import batches
import data
import experiment
import keras
import numpy as np
import tensorflow as tf
from absl import flags

import tf_direct_opt as tdo
from tf_direct_opt.callbacks import Checkpoint, TensorBoard, image_grid
from tf_direct_opt.files import remove_temporaries, replacing

FLAGS = flags.FLAGS

# A comparison trains many models on the same images.
_load = functools.lru_cache(maxsize=1)(data.load)


def image_feed(images: data.Images) -> batches.Feed:
    """The images alone, in batches of --batch_size.

    Raises:
        ValueError: batches larger than the training images.
    """
    if FLAGS.batch_size > len(images.train):
        raise ValueError(
            f"Expected --batch_size to be at most the {len(images.train)} training images; "
            f"received {FLAGS.batch_size}."
        )
    return batches.ImageFeed(images, FLAGS.batch_size, FLAGS.seed)


def train(
    run: experiment.Run,
    build_model: Callable[[batches.Feed], keras.Model],
    make_feed: Callable[[data.Images], batches.Feed] | None = None,
) -> dict:
    """Trains the model in the folder given by `experiment.prepare`, or goes on training it.

    Args:
        run: its folder gets event files under tensorboard/, history.csv, checkpoints/, and at
            the end model.keras, codes.png and metrics.json.
        build_model: feed -> uncompiled model.
        make_feed: images -> what the model is trained and evaluated on; None: the images alone.

    Returns:
        What the run was and the figures of its test images, in nats.

    Raises:
        ValueError: flags that do not fit the data, or a checkpoint that cannot be read.
    """
    directory = run.directory
    remove_temporaries(directory)
    images = _load(FLAGS.dataset, FLAGS.data_dir, FLAGS.download)
    feed = (make_feed or image_feed)(images)
    model = _compiled(build_model, feed, images)
    checkpoint = Checkpoint(directory / "checkpoints")
    initial_epoch = checkpoint.restore(model) if FLAGS.resume else 0
    if initial_epoch:
        experiment.say(f"Resumed after epoch {initial_epoch} of {FLAGS.epochs}.")
    history = History(directory / "history.csv", initial_epoch)
    with _divergence_explained():
        model.fit(
            feed.training(initial_epoch, FLAGS.epochs),
            initial_epoch=initial_epoch,
            epochs=FLAGS.epochs,
            steps_per_epoch=feed.steps,
            shuffle=False,
            validation_data=feed.evaluation(FLAGS.watch),
            validation_freq=FLAGS.watch_every,
            verbose=FLAGS.verbose,
            # A checkpoint says that its epoch is finished, so it comes after what the epoch left.
            callbacks=[
                TensorBoard(directory / "tensorboard", images.valid[:25], write_graph=False),
                history,
                keras.callbacks.TerminateOnNaN(),
                checkpoint,
            ],
        )
    test = model.evaluate(feed.evaluation("test"), return_dict=True, verbose=0)
    test = {"negative_elbo": test.pop("loss"), **test}
    _write_results(run, model, test, history.rows, images)
    return {
        "dataset": FLAGS.dataset,
        "seed": FLAGS.seed,
        "epochs": len(history.rows),
        "output_dir": str(directory),
        "test": test,
    }


def cpu_seconds_an_epoch(build_model: Callable[[batches.Feed], keras.Model]) -> float:
    """CPU seconds that training takes an epoch: those of the second of two, which are not kept."""
    images = _load(FLAGS.dataset, FLAGS.data_dir, FLAGS.download)
    feed = image_feed(images)
    model = _compiled(build_model, feed, images)
    for epoch in range(2):  # The first one is traced.
        start = time.process_time()
        model.fit(
            feed.training(epoch, epoch + 1),
            steps_per_epoch=feed.steps,
            shuffle=False,
            verbose=0,
        )
        seconds = time.process_time() - start
    keras.backend.clear_session()
    return seconds


def _compiled(
    build_model: Callable[[batches.Feed], keras.Model], feed: batches.Feed, images: data.Images
) -> keras.Model:
    """The model with its optimizer, both built."""
    steps = feed.steps
    if steps % FLAGS.steps_per_execution:
        raise ValueError(
            f"Expected --steps_per_execution to divide the {steps} steps of an epoch; received "
            f"{FLAGS.steps_per_execution}."
        )
    keras.utils.set_random_seed(FLAGS.seed)
    if FLAGS.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.config.set_dtype_policy(FLAGS.dtype_policy)
    with _strategy().scope():
        model = build_model(feed)
        model.compile(
            optimizer=keras.optimizers.Adam(_learning_rate(steps)),
            jit_compile=_jit_compile(),
            steps_per_execution=FLAGS.steps_per_execution,
        )
        model.build((None, *images.image_shape))
        model.optimizer.build(model.trainable_variables)
    return model


class History(keras.callbacks.Callback):
    """One row of figures an epoch, kept as a CSV file.

    `seconds` and `cpu_seconds` are those of the epoch's training part: on a clock, and as the
    process used them on all cores together, which other work on the machine leaves alone.
    """

    def __init__(self, path: pathlib.Path, initial_epoch: int):
        super().__init__()
        self.path = path
        self.rows = []
        if initial_epoch:
            with path.open(newline="") as file:
                self.rows = list(csv.DictReader(file))[:initial_epoch]

    def on_epoch_begin(self, epoch, logs=None):
        self._start = _clocks()
        self._stop = None

    def on_test_begin(self, logs=None):
        self._stop = _clocks()

    def on_epoch_end(self, epoch, logs=None):
        stop = _clocks() if self._stop is None else self._stop
        seconds, cpu_seconds = stop - self._start
        self.rows.append({"epoch": epoch, "seconds": seconds, "cpu_seconds": cpu_seconds, **logs})
        # Epochs without an evaluation leave its columns empty.
        columns = {name: None for row in self.rows for name in row}
        with replacing(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)


def _clocks() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


@contextlib.contextmanager
def _divergence_explained():
    """One line instead of a graph's traceback where logits or losses are no longer finite."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if "Expected finite" not in str(error):
            raise
        raise ValueError(
            "Expected finite logits and losses; training diverged. The last finite checkpoint is "
            "kept; please start again with a lower --learning_rate."
        ) from error


def _learning_rate(steps: int):
    if FLAGS.learning_rate_schedule == "constant":
        return FLAGS.learning_rate
    return keras.optimizers.schedules.CosineDecay(FLAGS.learning_rate, FLAGS.epochs * steps)


def _strategy() -> tf.distribute.Strategy:
    if FLAGS.distribute == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def _jit_compile():
    if FLAGS.distribute == "mirrored":
        return False
    return "auto" if FLAGS.jit_compile is None else FLAGS.jit_compile


def _write_results(run, model, test, rows, images) -> None:
    with replacing(run.directory / "model.keras") as temporary:
        model.save(temporary)
    grid = image_grid(model.decoded_codes()).numpy()
    pixels = np.kron(grid[..., 0], np.ones((4, 4)))[..., np.newaxis]
    with replacing(run.directory / "codes.png") as temporary:
        temporary.write_bytes(tf.io.encode_png(np.uint8(np.round(255 * pixels))).numpy())
    estimator = model.estimator.get_config()
    figures = {
        "test": test,
        **model.details(),
        "schedules": {
            **{name: estimator[name] for name in ("epsilon", "temperature") if name in estimator},
            "kl_weight": model.get_config()["kl_weight"],
            "learning_rate": model.optimizer.get_config()["learning_rate"],
        },
        "seed": FLAGS.seed,
        "epochs": len(rows),
        "seconds_per_epoch": statistics.median(float(row["seconds"]) for row in rows),
        "num_images": {part: len(getattr(images, part)) for part in ("train", "valid", "test")},
        "flags": {name: flag.value for name, flag in sorted(run.flags.items())},
        "versions": {
            "python": platform.python_version(),
            "tf_direct_opt": tdo.__version__,
            **{
                package: importlib.metadata.version(package)
                for package in ("tensorflow", "keras", "tensorflow-probability", "numpy")
            },
        },
    }
    with replacing(run.directory / "metrics.json") as temporary:
        temporary.write_text(json.dumps(figures, indent=2) + "\n")
