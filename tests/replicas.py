"""Models on several replicas: in this process, or as a program that is one worker of several.

TF_CONFIG=... python tests/replicas.py OUT.json '[["exact", 2, 201], ...]'
"""

import functools
import json
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

import tf_direct_opt as tdo

# hidden_units=4: what is exchanged is small.
MODELS = {
    "exact": lambda: tdo.models.DiscreteVAE(1, 3, "exact", hidden_units=4),
    "direct": lambda: tdo.models.DiscreteVAE(2, 3, seed=0, hidden_units=4),
    "adaptive": lambda: tdo.models.DiscreteVAE(2, 3, "adaptive_imle", seed=0, hidden_units=4),
    "structured": lambda: tdo.models.StructuredVAE(3, hidden_units=4, seed=0),
    "flips": lambda: tdo.models.StructuredVAE(3, perturbation="unary", hidden_units=4, seed=0),
    "chain": lambda: tdo.models.PosteriorVAE(
        tdo.posteriors.get("chain", num_variables=2, num_categories=2), hidden_units=4, seed=0
    ),
    "mixture": lambda: tdo.models.MixtureVAE(3, 2, hidden_units=4, seed=0),
    "labelled": lambda: tdo.models.MixtureVAE(3, 2, hidden_units=4, seed=0),
    # Nothing is drawn in its training.
    "supervised": lambda: tdo.models.MixtureVAE(
        3, 2, generative=False, label_loss="cross_entropy", hidden_units=4, seed=0
    ),
}
WITH_LABELS = ("labelled", "supervised")
# What `evaluate` reports without drawing anything.
EXACT = {"accuracy", "code_perplexity", "entropy", "kl", "negative_log_likelihood", "unary_kl"}


@functools.cache  # What two strategies of one process exchange, TensorFlow mixes up.
def two_replicas():
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def seen(strategy, name, steps_per_execution, num_images, predict=True):
    """Trains a model for two epochs in batches of 100 images, and tells what it saw.

    201 images leave a last batch of one: the second of two replicas has none then.
    """
    draw = np.random.default_rng(0)
    images = draw.binomial(1, np.linspace(0.1, 0.9, 5), [num_images, 4, 5]).astype("float32")
    labels = (draw.integers(-1, 3, [num_images]),) if name in WITH_LABELS else ()
    keras.utils.set_random_seed(3)
    with strategy.scope():
        model = MODELS[name]()
        model.compile(
            keras.optimizers.Adam(0.01),
            jit_compile=False,
            steps_per_execution=steps_per_execution,
        )
    options = {"batch_size": 100, "verbose": 0}
    untrained = model.evaluate(images, *labels, return_dict=True, **options) if predict else {}
    history = model.fit(
        images, *labels, epochs=2, shuffle=False,
        validation_data=(images[:101], *(part[:101] for part in labels)), **options,
    ).history  # fmt: skip
    found = {
        "untrained": {name: untrained[name] for name in EXACT & untrained.keys()},
        "history": history,
        "weights": np.concatenate([np.ravel(weight) for weight in model.weights]).tolist(),
        # What the next step would draw from.
        "seeds": np.array(strategy.experimental_local_results(_seeds(strategy, model))).tolist(),
    }
    if predict:
        figures = model.evaluate(images, *labels, return_dict=True, **options)
        outputs = model.predict(images[:101], batch_size=50, verbose=0)
        found["evaluated"] = figures
        found["predicted"] = {name: value.tolist() for name, value in outputs.items()}
    return found


def _seeds(strategy, model):
    return tf.function(lambda: strategy.run(model.estimator.seeds.next))()


if __name__ == "__main__":
    out, cases = sys.argv[1:]
    everything = tf.distribute.MultiWorkerMirroredStrategy()
    found = [seen(everything, *case) for case in json.loads(cases)]
    pathlib.Path(out).write_text(json.dumps(found))
