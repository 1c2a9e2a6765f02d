"""Seconds an epoch: the discrete VAE against a plain Keras autoencoder of the same layers.

    python benchmarks/epoch_seconds.py --num_categories=10,20,40,80,160,640

Both are trained by `fit` on the same batches in one process, epoch by epoch in turn, so that a
machine whose speed drifts drifts for both. The autoencoder is 784-300-ReLU-K-softmax-300-ReLU-784
with Keras' own binary cross-entropy from logits. The images are random bits of MNIST's size
(50k of 28x28), as speed does not depend on what they show. Third in turn are the matrix products
alone that a step of the VAE cannot do without, forward and backward, with nothing between them.
Prints one JSON line for each K: the median seconds of an epoch of each, the ratio to the
autoencoder, pair by pair: median, least and greatest; and the median ratio to the products.
"""

import json
import statistics
import time

from absl import flags

from tf_direct_opt.runs import command_line

flags.DEFINE_list("num_categories", ["10", "20", "40", "80", "160", "640"], "K.")
_NUM_IMAGES = flags.DEFINE_integer("num_images", 50000, "Training images.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 100, "Batch size.", lower_bound=1)
_EPOCHS = flags.DEFINE_integer("epochs", 5, "Timed epochs of each, after one that is not.", 1)
_JIT_COMPILE = flags.DEFINE_bool("jit_compile", False, "XLA for both.")
_STEPS_PER_EXECUTION = flags.DEFINE_integer("steps_per_execution", 1, "Steps a call, both.", 1)
_ESTIMATOR = flags.DEFINE_string("estimator", "direct", "Estimator of the VAE.")


def build_vae(num_categories: int):
    """The `DiscreteVAE`, built."""
    import tf_direct_opt as tdo

    model = tdo.models.DiscreteVAE(
        num_categories=num_categories, estimator=_ESTIMATOR.value, seed=0
    )
    model.build((None, 28, 28))
    return model


def build_autoencoder(num_categories: int):
    """An autoencoder of the same layers."""
    import keras

    return keras.Sequential(
        [
            keras.Input((28, 28)),
            keras.layers.Flatten(),
            keras.layers.Dense(300, activation="relu"),
            keras.layers.Dense(num_categories, activation="softmax"),
            keras.layers.Dense(300, activation="relu"),
            keras.layers.Dense(784),
            keras.layers.Reshape((28, 28)),
        ]
    )


def make_products(num_categories: int):
    """A function of no argument: the matrix products of an epoch, those of weights' gradients too.

    Encoder P-300-K on the batch; decoder K-300-P on the K codes; the table of losses, batch times
    codes. Each has two more of its size on the way back, but the first layer of either network and
    the table, whose other factor is data.
    """
    import tensorflow as tf

    k, batch, steps = num_categories, _BATCH_SIZE.value, _NUM_IMAGES.value // _BATCH_SIZE.value
    products = [
        # rows, inner, columns, how often
        (batch, 784, 300, 2), (batch, 300, k, 3), (k, k, 300, 2), (k, 300, 784, 3),
        (batch, 784, k, 2),
    ]  # fmt: skip
    factors = [
        (tf.random.normal([rows, inner]), tf.random.normal([inner, columns]))
        for rows, inner, columns, count in products
        for _ in range(count)  # The same ones twice would be one product.
    ]

    @tf.function(jit_compile=_JIT_COMPILE.value)
    def step():
        return tf.add_n([tf.matmul(a, b)[0, 0] for a, b in factors])

    def epoch():
        for _ in range(steps):
            last = step()
        return float(last)

    return epoch


def compare(num_categories: int) -> dict:
    """Times both models and the products; returns the row that is printed."""
    import keras
    import numpy as np

    from tf_direct_opt.runs import batches

    images = np.random.default_rng(0).integers(0, 2, [_NUM_IMAGES.value, 28, 28], np.uint8)
    vae, autoencoder = build_vae(num_categories), build_autoencoder(num_categories)
    options = {
        "jit_compile": _JIT_COMPILE.value,
        "steps_per_execution": _STEPS_PER_EXECUTION.value,
    }
    vae.compile(keras.optimizers.Adam(1e-3), **options)
    autoencoder.compile(
        keras.optimizers.Adam(1e-3), keras.losses.BinaryCrossentropy(from_logits=True), **options
    )
    seconds = {"vae": [], "autoencoder": [], "products": []}
    products = make_products(num_categories)
    for epoch in range(_EPOCHS.value + 1):
        start = time.perf_counter()
        products()
        if epoch > 0:
            seconds["products"].append(time.perf_counter() - start)
        for name, model in (("vae", vae), ("autoencoder", autoencoder)):
            epoch_batches = batches.training_batches(images, _BATCH_SIZE.value, 0, epoch, epoch + 1)
            if name == "autoencoder":
                epoch_batches = epoch_batches.map(lambda batch: (batch, batch))
            start = time.perf_counter()
            model.fit(epoch_batches, verbose=0, shuffle=False)
            if epoch > 0:  # The first includes tracing.
                seconds[name].append(time.perf_counter() - start)
    ratios = [a / b for a, b in zip(seconds["vae"], seconds["autoencoder"], strict=True)]
    to_products = [a / b for a, b in zip(seconds["vae"], seconds["products"], strict=True)]
    return {
        "num_categories": num_categories,
        "estimator": _ESTIMATOR.value,
        **options,
        "epochs": _EPOCHS.value,
        "vae_seconds": round(statistics.median(seconds["vae"]), 3),
        "autoencoder_seconds": round(statistics.median(seconds["autoencoder"]), 3),
        "products_seconds": round(statistics.median(seconds["products"]), 3),
        "ratio_to_products": round(statistics.median(to_products), 3),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
    }


def main():
    ks = command_line.integers("num_categories", 2)
    if _BATCH_SIZE.value > _NUM_IMAGES.value:
        raise ValueError(
            f"Expected --batch_size of at most the {_NUM_IMAGES.value} --num_images; received "
            f"{_BATCH_SIZE.value}. Please give fewer."
        )
    from tf_direct_opt import estimators

    estimators.get(_ESTIMATOR.value)  # Raises ValueError for an unknown one.
    for num_categories in ks:
        print(json.dumps(compare(num_categories)), flush=True)


if __name__ == "__main__":
    command_line.run(main)
