"""ReinMax's MNIST-VAE, with any estimator: the setting of a published table, to be laid beside it.

    python experiments/reinmax_vae.py --estimator=reinmax --temperature=1.3 --output_dir=runs/a

Grey pixels in [0, 1] under a Bernoulli log-likelihood, which makes the loss no likelihood; all
60,000 training images; 784-512-256-NK-256-512-784 with ReLU; uniform prior, KL in closed form, its
weight 1 throughout; batches of 100, a constant rate, 160 epochs = 96,000 steps. What the paper
reports is the mean training loss over the last epoch, and the loss of the test images with one
draw each. Initialisation and Adam's epsilon are those of PyTorch, in which the paper's program is
written: that is what this adds to examples/train_vae.py.

Into --output_dir: flags.txt, history.csv with a row for each epoch, and a checkpoint from which
the same command goes on. The last line printed is JSON with the last figures.

References:
    Liu, Dong, Liu, Yu, Gao, "Bridging Discrete and Backpropagation: Straight-Through and Beyond",
    NeurIPS 2023, arXiv:2304.08612.
"""

import itertools
import json

import _examples  # noqa: F401
import data
from absl import flags

from tf_direct_opt import runs
from tf_direct_opt.runs import command_line

FLAGS = flags.FLAGS

flags.DEFINE_string("estimator", "reinmax", "Registered name of a gradient estimator.")
flags.DEFINE_list("set", [], "Arguments of the estimator: name=value,name=value.")
flags.DEFINE_float("temperature", None, "Its temperature [its own default].")
flags.DEFINE_integer("k", 8, "Categories of a variable.", lower_bound=2)
flags.DEFINE_integer("num_variables", 4, "Categorical variables.", lower_bound=1)
flags.DEFINE_enum("optimizer", "adam", ["adam", "radam"], "Optimizer.")
flags.DEFINE_float("learning_rate", 5e-4, "Its rate, constant.", 0.0)
flags.DEFINE_integer("epochs", 160, "Epochs of 600 steps.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Of weights, order and noise.", 0, 2**31 - 1)
flags.DEFINE_integer("evaluate_every", 10, "Epochs from one test loss to the next.", 1)
flags.DEFINE_integer("threads", 0, "Threads [all cores].", lower_bound=0)
flags.DEFINE_string("output_dir", None, "Folder of the results.", required=True)
for _name in ("cache", "data_dir", "download"):
    flags.declare_key_flag(_name)

BATCH_SIZE = 100


def network(sizes: list[int], name: str):
    """A ReLU network without an activation at its end, initialised as PyTorch does."""
    import keras

    layers = []
    for fan_in, size in itertools.pairwise(sizes):
        uniform = keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)
        activation = None if len(layers) == len(sizes) - 2 else "relu"
        layers.append(
            keras.layers.Dense(
                size, activation, kernel_initializer=uniform.clone(), bias_initializer=uniform
            )
        )
    return keras.Sequential(layers, name=name)


def build_estimator():
    """The estimator of --estimator, --temperature and --set, with the seed of the run."""
    from tf_direct_opt import estimators

    if not all("=" in pair for pair in FLAGS.set):
        raise ValueError(
            f"Expected --set of name=value; received {','.join(FLAGS.set)!r}. Please add a =."
        )
    arguments = dict(pair.split("=", 1) for pair in FLAGS.set)
    arguments = {name: number_or_text(text) for name, text in arguments.items()}
    twice = sorted({"seed", "temperature"} & {*arguments})
    if twice:
        raise ValueError(
            f"Expected --set of what has no flag of its own; received {','.join(twice)}. Please "
            f"give --{twice[0]}."
        )
    if FLAGS.temperature is not None:
        arguments["temperature"] = FLAGS.temperature
    return estimators.get(FLAGS.estimator, seed=FLAGS.seed, **arguments)


def number_or_text(text: str):
    """The number that the text spells, or else the text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def build_model():
    """The compiled model that the flags describe."""
    import keras

    import tf_direct_opt as tdo
    from tf_direct_opt import optimizers

    size = FLAGS.num_variables * FLAGS.k
    model = tdo.models.DiscreteVAE(
        num_variables=FLAGS.num_variables,
        num_categories=FLAGS.k,
        estimator=build_estimator(),
        kl_weight=1.0,
        encoder=network([784, 512, 256, size], "encoder"),
        decoder=network([size, 256, 512, 784], "decoder"),
        num_eval_samples=1,
    )
    kind = {"adam": keras.optimizers.Adam, "radam": optimizers.RAdam}[FLAGS.optimizer]
    optimizer = kind(FLAGS.learning_rate, epsilon=1e-8)
    # One call for fifty steps, compiled: a step this small is otherwise half calls.
    model.compile(optimizer, jit_compile=True, steps_per_execution=50)
    model.build((None, 784))
    return model


def main():
    command_line.refuse(("binarize", "dataset", "num_train"), "where the images are the paper's")
    settings, every = command_line.given(), FLAGS.evaluate_every
    free = ("cache", "data_dir", "download", "output_dir", "threads")
    run = runs.Run(FLAGS.output_dir, settings, True, free)
    run.check()
    data.require_prepared("mnist", FLAGS.data_dir, FLAGS.download)
    import keras
    import tensorflow as tf

    from tf_direct_opt.runs import batches

    tf.config.threading.set_intra_op_parallelism_threads(FLAGS.threads)
    tf.config.threading.set_inter_op_parallelism_threads(FLAGS.threads)
    # Losses are float32 products, which a GPU would otherwise round to 10 bits.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    with run:
        keras.utils.set_random_seed(FLAGS.seed)
        model = build_model()
        first_epoch = run.restore(model)
        images = data.load("mnist", FLAGS.data_dir, FLAGS.download, FLAGS.cache, binarize="none")
        train = images.with_num_train(60_000).train.reshape([-1, 784])
        model.fit(
            batches.training_batches(train, BATCH_SIZE, FLAGS.seed, first_epoch, FLAGS.epochs),
            initial_epoch=first_epoch,
            epochs=FLAGS.epochs,
            steps_per_epoch=len(train) // BATCH_SIZE,
            # One batch, so that the noise of an image does not depend on a size of batches.
            validation_data=batches.untuned(
                tf.data.Dataset.from_tensors(images.test.reshape([-1, 784]))
            ),
            validation_freq=[*range(every, FLAGS.epochs, every), FLAGS.epochs],
            shuffle=False,
            verbose=2,
            callbacks=run.callbacks(),
        )
        figures = run.rows[-1]
    print(json.dumps({"estimator": FLAGS.estimator, "seed": FLAGS.seed, **figures}))


if __name__ == "__main__":
    command_line.run(main)
