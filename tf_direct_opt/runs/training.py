"""Flags of training, and training by them: the same for every program that trains a VAE.

    run = training.prepare(module, title)     # flags that fit together, a folder that is free
    figures = training.train(run, feed, build_model)

TensorFlow is imported when the model is made: a mistake in a command line is answered at once.
"""

import contextlib
import functools
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from absl import flags

from tf_direct_opt.runs import Run, cluster, command_line

if TYPE_CHECKING:  # It imports TensorFlow.
    from tf_direct_opt.runs.batches import Feed

FLAGS = flags.FLAGS

flags.DEFINE_integer("epochs", 100, "Epochs in all.", 1, 2**31 - 1)
flags.DEFINE_integer("batch_size", 100, "Batch size, over all replicas.", lower_bound=1)
flags.DEFINE_enum("optimizer", "adam", ["adam", "radam"], "radam: rectified Adam.")
flags.DEFINE_float("learning_rate", 3e-3, "The optimizer's rate, at its highest.", 0.0)
flags.DEFINE_enum(
    "learning_rate_schedule", "cosine", ["cosine", "constant"], "cosine: to 0 over --epochs."
)
flags.DEFINE_integer("seed", 0, "Same seed, same weights (CPU, as many threads).", 0, 2**31 - 1)
flags.DEFINE_bool("deterministic", False, "Deterministic kernels where they are not (GPU).")
flags.DEFINE_string("output_dir", None, "Folder of the results [a new one under runs/].")
flags.DEFINE_bool("resume", False, "Go on with the run in --output_dir, if there is one.")
flags.DEFINE_bool("jit_compile", None, "XLA [Keras decides: on a GPU only].")
flags.DEFINE_integer(
    "steps_per_execution",
    None,
    "Training steps in one call [the largest divisor of an epoch's, up to 50].",
    lower_bound=1,
)
flags.DEFINE_enum(
    "distribute",
    "none",
    ["none", "mirrored", "multi_worker"],
    "mirrored: over the devices of this machine. multi_worker: over those of all processes that "
    "TF_CONFIG names; start the same command in each.",
)
flags.DEFINE_integer("worker_timeout", 300, "Seconds that workers wait for each other.", 1)
flags.DEFINE_enum(
    "dtype_policy", "float32", ["float32", "mixed_float16", "mixed_bfloat16"], "Keras' policy."
)
flags.DEFINE_enum("watch", "valid", ["valid", "test"], "Images evaluated while training.")
flags.DEFINE_integer("watch_every", 1, "Epochs from one such evaluation to the next.", 1)
flags.DEFINE_integer("verbose", 1, "0 silent, 1 progress bar, 2 a line an epoch.", 0, 2)

# Flags that say where to run, not what: they may change when a run is resumed.
FREE_ON_RESUME = ("cache", "data_dir", "download", "output_dir", "verbose", "worker_timeout")


def prepare(module: str, title: str) -> Run:
    """Checks the flags against each other and the output folder, which is not made yet.

    Args:
        module: absl's name of the module whose key flags describe the run.
        title: start of the name of a new output folder.

    Raises:
        ValueError: flags that do not fit together, or an output folder that holds another run or
            cannot be written.
    """
    if FLAGS.distribute != "none" and FLAGS.jit_compile:
        raise ValueError(
            f"Expected --distribute={FLAGS.distribute} without --jit_compile; received both, which "
            "Keras cannot combine. Please leave one of them out."
        )
    if FLAGS.watch_every > FLAGS.epochs:
        raise ValueError(
            f"Expected --watch_every of at most the {FLAGS.epochs} --epochs; received "
            f"{FLAGS.watch_every}. Please give fewer."
        )
    if FLAGS.resume and FLAGS.output_dir is None:
        raise ValueError(
            "Expected --output_dir with --resume; received none. Please give the folder of the "
            "run to go on with."
        )
    if FLAGS.output_dir is None:
        folder = os.path.join("runs", f"{title}-{time.strftime('%Y%m%d-%H%M%S')}")
        FLAGS.output_dir = folder  # type: ignore[assignment]  # absl takes any value.
    # Key flags: neither absl's own nor those of TFDS.
    key_flags = FLAGS.get_key_flags_for_module(module)
    settings = {flag.name: flag.value for flag in key_flags if flag.name != "resume"}
    about = (FLAGS.output_dir, settings, FLAGS.resume, FREE_ON_RESUME)
    if FLAGS.distribute == "multi_worker":
        workers = cluster.from_environment()
        run: Run = cluster.SharedRun(workers, FLAGS.worker_timeout, *about)
        FLAGS.verbose *= workers.is_chief  # One of them speaks.
    else:
        run = Run(*about)
    run.check()
    return run


@contextlib.contextmanager
def _failures_explained():
    """One line instead of a graph's traceback: training diverged, or a worker was lost."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        if FLAGS.distribute == "multi_worker" and "Expected " not in error.message:
            raise ValueError(
                f"Expected all workers to the end; lost one: {error.message.splitlines()[0]} "
                "Please start all of them again with --resume."
            ) from error
        from tf_direct_opt.callbacks import DivergedError

        if "Expected finite" in error.message:
            raise DivergedError(command_line.DIVERGED) from error
        raise


@_failures_explained()
def train(run: Run, feed: "Feed", build_model: Callable, callbacks=()) -> dict:
    """Trains a model in the folder of a run, or goes on training it.

    Args:
        run: an entered one.
        feed: `batches.ImageFeed`, or another.
        build_model: feed -> uncompiled model with `pictures`, `decoded_codes` and `details`.
        callbacks: more of them, which come before those of the run.

    Returns:
        What the run was and the figures of its test images, in nats.

    Raises:
        ValueError: flags that do not fit the data, or a checkpoint that cannot be read.
        callbacks.DivergedError: numbers that are not finite.
    """
    from tf_direct_opt.callbacks import DivergedError, diverged

    model = compiled(feed, build_model)
    initial_epoch = run.restore(model)
    say(f"Results go to {run.directory}.")
    if initial_epoch > FLAGS.epochs:
        raise ValueError(
            f"Expected a run of at most {FLAGS.epochs} --epochs; received {run.directory} with "
            f"{initial_epoch} finished ones. Please give more --epochs, or another --output_dir."
        )
    if initial_epoch:
        say(f"Resumed after epoch {initial_epoch} of {FLAGS.epochs}.")
    batches = feed.training(initial_epoch, FLAGS.epochs)
    if FLAGS.distribute == "multi_worker":
        import tensorflow as tf

        # Workers need not ask each other at every step whether there is one more.
        batches = batches.apply(
            tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        )
    model.fit(
        batches,
        initial_epoch=initial_epoch,
        epochs=FLAGS.epochs,
        steps_per_epoch=feed.steps,
        shuffle=False,
        validation_data=feed.evaluation(FLAGS.watch),
        validation_freq=FLAGS.watch_every,
        verbose=FLAGS.verbose,
        callbacks=[*callbacks, *run.callbacks(feed.images.valid[:25])],
    )
    if diverged(model):
        raise DivergedError(command_line.DIVERGED)
    say(f"Evaluating the {len(feed.images.test)} test images.")
    verbose = int(FLAGS.verbose == 1)
    test = model.evaluate(feed.evaluation("test"), return_dict=True, verbose=verbose)
    test = {"negative_elbo": test.pop("loss"), **test}
    _write_codes(run, model)
    run.save(model, test, **_details(model, feed.images))
    return {
        "dataset": feed.images.name,
        "seed": FLAGS.seed,
        "epochs": FLAGS.epochs,
        "output_dir": FLAGS.output_dir,
        "test": test,
    }


def compiled(feed, build_model: Callable):
    """The model with its optimizer, both built.

    Raises:
        ValueError: flags that the model or the number of images does not allow.
    """
    import keras
    import tensorflow as tf

    steps_per_execution = _steps_per_execution(feed.steps)
    keras.utils.set_random_seed(FLAGS.seed)
    # Scores and log Z are float32 products, which a GPU would otherwise round to 10 bits.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    if FLAGS.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.config.set_dtype_policy(FLAGS.dtype_policy)
    with _strategy(FLAGS.distribute).scope():
        model = build_model(feed)
        model.compile(
            optimizer=_optimizer(_learning_rate(feed.steps)),
            jit_compile=_jit_compile(),
            steps_per_execution=steps_per_execution,
        )
        model.build((None, *feed.images.image_shape))
        model.optimizer.build(model.trainable_variables)
    return model


def cpu_seconds_an_epoch(feed, build_model: Callable) -> float:
    """CPU seconds that training takes an epoch: those of the second of two, which are not kept."""
    import keras

    model = compiled(feed, build_model)
    for epoch in range(2):  # The first one is traced.
        start = time.process_time()
        model.fit(
            feed.training(epoch, epoch + 1), steps_per_epoch=feed.steps, shuffle=False, verbose=0
        )
        seconds = time.process_time() - start
    keras.backend.clear_session()
    return seconds


def say(line: str) -> None:
    """Prints a line for somebody who watches, unless --verbose=0."""
    if FLAGS.verbose:
        print(line, flush=True)


def _steps_per_execution(steps: int) -> int:
    """Steps in one call: more save Python's share of a step, and above 50 nothing is left of it."""
    if FLAGS.steps_per_execution is None:
        return max(count for count in range(1, 51) if steps % count == 0)
    if steps % FLAGS.steps_per_execution:
        raise ValueError(
            f"Expected --steps_per_execution to divide the {steps} steps of an epoch; "
            f"received {FLAGS.steps_per_execution}. Please give another number."
        )
    return FLAGS.steps_per_execution


def _learning_rate(steps: int):
    import keras

    if FLAGS.learning_rate_schedule == "constant":
        return FLAGS.learning_rate
    return keras.optimizers.schedules.CosineDecay(FLAGS.learning_rate, FLAGS.epochs * steps)


def _optimizer(learning_rate):
    import keras

    from tf_direct_opt import optimizers

    classes = {"adam": keras.optimizers.Adam, "radam": optimizers.RAdam}
    return classes[FLAGS.optimizer](learning_rate)


@functools.cache  # What two of them exchange in one process, TensorFlow mixes up.
def _strategy(kind: str):
    import tensorflow as tf

    match kind:
        case "mirrored":
            devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
            return tf.distribute.MirroredStrategy([device.name for device in devices])
        case "multi_worker":
            return cluster.strategy()
    return tf.distribute.get_strategy()


def _jit_compile():
    if FLAGS.distribute != "none":
        return False
    return "auto" if FLAGS.jit_compile is None else FLAGS.jit_compile


def _write_codes(run: Run, model) -> None:
    """Writes codes.png: what each code decodes to."""
    from tf_direct_opt import pictures

    pictures.write_images(run.directory / "codes.png", model.decoded_codes())


def _details(model, images) -> dict:
    """What metrics.json says of a run beside what every run says."""
    estimator = model.estimator.get_config()
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # Of a loss scale.
    return {
        **model.details(),
        "schedules": {
            **{name: estimator[name] for name in ("epsilon", "temperature") if name in estimator},
            "kl_weight": model.get_config()["kl_weight"],
            "learning_rate": optimizer.get_config()["learning_rate"],
        },
        "seed": FLAGS.seed,
        "num_images": {part: len(getattr(images, part)) for part in ("train", "valid", "test")},
    }
