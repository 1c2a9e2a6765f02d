"""The limit of a discrete VAE with one variable: EM for a mixture of K Bernoulli vectors.

    python benchmarks/em_limit.py --dataset=mnist --num_categories=20,30,40,50

With one categorical variable, a uniform prior and a free decoder, p(x) = 1/K sum_k p(x | k) is such
a mixture, whose likelihood EM maximises without an encoder. Prints one JSON line for each K: nats
an image on the training and the test images, of the start that was best on the training images.
"""

import json
import pathlib
import sys

from absl import flags

from tf_direct_opt.runs import command_line

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))

import data

flags.adopt_module_key_flags(data)  # --dataset, --data_dir, ...
flags.DEFINE_list("num_categories", ["10"], "K.")
_ITERATIONS = flags.DEFINE_integer("iterations", 100, "EM iterations.", lower_bound=1)
_STARTS = flags.DEFINE_integer("starts", 3, "Random starts.", lower_bound=1)


def main():
    ks = command_line.integers("num_categories", 1)
    data.check_flags()
    import mixture_em
    import tensorflow as tf

    images = data.from_flags()
    train, test = (
        tf.reshape(tf.cast(part, tf.float32), [len(part), -1])
        for part in (images.train, images.test)
    )
    for num_categories in ks:
        pixel_logits = mixture_em.fit(train, num_categories, _ITERATIONS.value, _STARTS.value)
        row = {
            "dataset": images.name,
            "num_categories": num_categories,
            "train_nll": round(float(mixture_em.nll(train, pixel_logits)), 2),
            "test_nll": round(float(mixture_em.nll(test, pixel_logits)), 2),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    command_line.run(main)
