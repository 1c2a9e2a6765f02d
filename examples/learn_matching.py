r"""Learns to match two sets, or to sort numbers, through an argmax over permutations.

    python examples/learn_matching.py --seeds=1,2,3,4,5
    python examples/learn_matching.py --method=gumbel_sinkhorn --seeds=1,2,3,4,5
    python examples/learn_matching.py --task=numbers --seeds=1,2,3,4,5

`--task=digits`: an example is two sets of ten noisy images, in each one image of every digit, the
second set in random order. Only the permutation is known in training, no label. The same encoder
embeds the images of both sets; the scores of the pairs are inner products. `--task=numbers`: ten
uniform numbers have to be put in order; a network gives each of them a score for every place. The
loss is the number of elements put wrongly; it is linear in the permutation matrix.

`direct` puts `PerturbedArgmax(solver="assignment")` on the scores: the code is a permutation in
training as well, and the loss is the true one. `fenchel_young` is the perturbed Fenchel-Young loss
of the scores. `gumbel_sinkhorn` is the relaxation of Mena, Belanger, Linderman, Snoek, "Learning
Latent Permutations with Gumbel-Sinkhorn Networks", ICLR 2018. All are judged by the best
permutation under their scores, on validation examples, by which to choose flags, and on test
examples. The last line is JSON: the share of pairs without a fault, of elements put wrongly, and of
pairs with any wrong element.
"""

import json
import statistics

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from sklearn.datasets import load_digits

import tf_direct_opt as tdo
from tf_direct_opt import decisions, files
from tf_direct_opt.runs import command_line

FLAGS = flags.FLAGS
METHODS = ("direct", "fenchel_young", "gumbel_sinkhorn")
flags.DEFINE_enum("method", "direct", METHODS, "How permutations are learnt.")
flags.DEFINE_enum("task", "digits", ["digits", "numbers"], "What is matched.")
flags.DEFINE_list("seeds", ["1"], "One run for each.")
flags.DEFINE_integer("epochs", 5, "Passes over the training sets.", lower_bound=1)
flags.DEFINE_integer("num_pairs", 2000, "Pairs of sets to train on.", lower_bound=1)
flags.DEFINE_integer("num_test", 500, "Held-out pairs of sets.", lower_bound=1)
flags.DEFINE_integer("batch_size", 50, "Pairs of sets in a step.", lower_bound=1)
flags.DEFINE_float("pixel_noise", 0.2, "Its standard deviation; pixels lie in [0, 1].", 0.0)
flags.DEFINE_float("learning_rate", 5e-3, "Of Adam.", lower_bound=0.0)
flags.DEFINE_float("epsilon", 3.0, "Step of `direct`, in 1/(elements put wrongly).")
flags.DEFINE_enum("difference", "central", tdo.direct.DIFFERENCES, "Sign of the step.")
flags.DEFINE_float("noise_scale", 1.0, "Of the Gumbel noise of `direct` and `fenchel_young`.")
flags.DEFINE_integer("num_samples", 1, "Their draws of noise an example.", lower_bound=1)
flags.DEFINE_float("margin", 10.0, "Taken from the scores of the right pairs by `fenchel_young`.")
flags.DEFINE_float("temperature", 2.0, "Of the Sinkhorn operator.")
flags.DEFINE_integer("sinkhorn_steps", 20, "Normalisations of rows and columns.", lower_bound=1)
flags.DEFINE_string("output_dir", None, "Folder for result.json; nothing is written without it.")
for _name in ("epsilon", "temperature"):
    flags.register_validator(_name, lambda value: value > 0, "has to be positive")

UNREAD = {
    "direct": ("margin", "temperature", "sinkhorn_steps"),
    "fenchel_young": ("epsilon", "difference", "temperature", "sinkhorn_steps"),
    "gumbel_sinkhorn": ("epsilon", "difference", "noise_scale", "num_samples", "margin"),
}
NUM_DIGITS, NUM_PIXELS = 10, 64


def digit_images(part: str) -> list[np.ndarray]:
    """Images [*, 64] in [0, 1] of each digit, for "train" (900), "validation" (300) or "test"."""
    digits = load_digits()
    rows = {"train": slice(900), "validation": slice(900, 1200), "test": slice(1200, None)}[part]
    images, labels = digits.data[rows] / 16.0, digits.target[rows]
    return [images[labels == digit].astype(np.float32) for digit in range(NUM_DIGITS)]


def pairs_of_sets(images: list[np.ndarray], count: int, pixel_noise: float, seed: int):
    """`((first, second), permutation)`: sets [count, 10, 64], permutation matrices [count, 10, 10].

    Entry (i, j) of a permutation is 1 where image i of the first and j of the second set show the
    same digit. No image is in both sets of a pair.
    """
    generator = np.random.default_rng(seed)
    sets = np.empty([2, count, NUM_DIGITS, NUM_PIXELS], np.float32)
    for digit, of_digit in enumerate(images):
        chosen = generator.random([count, len(of_digit)]).argpartition(2)[:, :2]
        sets[:, :, digit] = np.moveaxis(of_digit[chosen], 1, 0)
    orders = generator.permuted(np.tile(np.arange(NUM_DIGITS), [2, count, 1]), axis=-1)
    sets = np.take_along_axis(sets, orders[..., np.newaxis], axis=2)
    sets += pixel_noise * generator.normal(size=sets.shape).astype(np.float32)
    permutation = orders[0][:, :, np.newaxis] == orders[1][:, np.newaxis]
    return (sets[0], sets[1]), permutation.astype(np.float32)


@keras.saving.register_keras_serializable("learn_matching")
class GumbelSinkhorn(keras.layers.Layer):
    """Doubly stochastic matrices: rows and columns of exp((h + gamma) / t) normalised in turn."""

    def __init__(self, temperature, num_steps, seed, **kwargs):
        super().__init__(**kwargs)
        self.temperature, self.num_steps = temperature, num_steps
        self.seeds = keras.random.SeedGenerator(seed)

    def call(self, scores, training=False):
        noise = tdo.sample_gumbel(tf.shape(scores), self.seeds.next()) if training else 0.0
        log_matrix = (scores + noise) / self.temperature
        for _ in range(self.num_steps):
            for axis in (-1, -2):
                log_matrix -= tf.reduce_logsumexp(log_matrix, axis=axis, keepdims=True)
        return tf.exp(log_matrix)


def numbers_to_sort(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Uniform numbers [count, 10, 1], and permutation matrices: 1 where number i belongs at j."""
    numbers = np.random.default_rng(seed).random([count, NUM_DIGITS, 1]).astype(np.float32)
    place = numbers[..., 0].argsort(axis=1).argsort(axis=1)
    return numbers, np.eye(NUM_DIGITS, dtype=np.float32)[place]


def examples(part: str, count: int, seed: int):
    """`(inputs, permutation)` of the task; "train", "validation" and "test" share no image."""
    if FLAGS.task == "numbers":
        return numbers_to_sort(count, seed + {"train": 0, "validation": 1, "test": 2}[part])
    return pairs_of_sets(digit_images(part), count, FLAGS.pixel_noise, seed)


def num_wrong(permutation, matrix):
    """Elements that are put wrongly, [B]; linear in the matrix."""
    return NUM_DIGITS - tf.reduce_sum(permutation * matrix, axis=[1, 2])


def score_model() -> keras.Model:
    """Two sets [B, 10, 64], or numbers [B, 10, 1] -> scores [B, 10, 10]."""
    size = 32 if FLAGS.task == "digits" else NUM_DIGITS
    encoder = keras.Sequential(
        [keras.layers.Dense(128, activation="relu"), keras.layers.Dense(size)], name="encoder"
    )
    if FLAGS.task == "numbers":
        numbers = keras.Input((NUM_DIGITS, 1))
        return keras.Model(numbers, encoder(numbers))
    sets = [keras.Input((NUM_DIGITS, NUM_PIXELS)) for _ in range(2)]
    return keras.Model(sets, keras.layers.Dot(axes=2)([encoder(images) for images in sets]))


def training_model(scores: keras.Model, seed: int) -> keras.Model:
    """The scores with what the method puts on them, compiled."""
    matrix, loss = scores.output, num_wrong
    noise = {"noise_scale": FLAGS.noise_scale, "num_samples": FLAGS.num_samples, "seed": seed}
    if FLAGS.method == "direct":
        layer = tdo.layers.PerturbedArgmax(
            FLAGS.epsilon, "assignment", difference=FLAGS.difference, **noise
        )
        matrix = layer(matrix)
    elif FLAGS.method == "gumbel_sinkhorn":
        matrix = GumbelSinkhorn(FLAGS.temperature, FLAGS.sinkhorn_steps, seed)(matrix)
    else:
        fenchel_young = decisions.PerturbedFenchelYoung("assignment", minimize=False, **noise)

        def loss(permutation, scores):
            # The permutation is the best one under itself as values. It has to win by a margin.
            targets = tf.stack([permutation, permutation], axis=1)
            return fenchel_young.call(targets, scores - FLAGS.margin * permutation)

    model = keras.Model(scores.input, matrix)
    model.compile(keras.optimizers.Adam(FLAGS.learning_rate), loss, jit_compile=False)
    return model


def shares(scores: keras.Model, inputs, permutation) -> tuple[float, float]:
    """Shares of elements put wrongly, and of examples with any of them."""
    code = tdo.solvers.Assignment()(scores.predict(inputs, batch_size=500, verbose=0)).numpy()
    wrong = NUM_DIGITS - (code * permutation).sum(axis=(1, 2))
    return round(float(np.mean(wrong)) / NUM_DIGITS, 4), round(float(np.mean(wrong > 0)), 4)


def run(seed: int) -> dict:
    """Trains one model with the flags and returns its figures."""
    keras.utils.set_random_seed(seed)
    scores = score_model()
    history = training_model(scores, seed).fit(
        *examples("train", FLAGS.num_pairs, seed), FLAGS.batch_size, FLAGS.epochs, verbose=0
    )
    result = {"seed": seed, "train_loss": [round(v, 3) for v in history.history["loss"]]}
    for part in ("validation", "test"):
        # The same held-out examples for every seed and method.
        elements, any_wrong = shares(scores, *examples(part, FLAGS.num_test, 10**6))
        result |= {f"{part}_elements_wrong": elements, f"{part}_any_wrong": any_wrong}
    return result


def main():
    command_line.refuse(UNREAD[FLAGS.method], f"with --method={FLAGS.method}")
    command_line.refuse(("pixel_noise",) * (FLAGS.task == "numbers"), "with --task=numbers")
    seeds = command_line.integers("seeds")
    if FLAGS.output_dir is not None:
        command_line.make_folder(FLAGS.output_dir, ["result.json"])
    runs = []
    for seed in seeds:
        runs.append(run(seed))
        print(runs[-1], flush=True)
    result = {"task": FLAGS.task, "method": FLAGS.method}
    for name in [name for name in runs[0] if name.endswith("wrong")]:
        result[name] = round(statistics.mean(figures[name] for figures in runs), 4)
    result["test_exact_match"] = round(1 - result["test_any_wrong"], 4)
    result["steps"] = FLAGS.epochs * -(-FLAGS.num_pairs // FLAGS.batch_size)
    result |= {"runs": runs, "flags": command_line.given()}
    if FLAGS.output_dir:
        path = command_line.make_folder(FLAGS.output_dir) / "result.json"
        with files.replacing(path) as temporary:
            temporary.write_text(json.dumps(result, indent=2))
    print(json.dumps(result))


if __name__ == "__main__":
    command_line.run(main)
