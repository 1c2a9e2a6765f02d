"""CPU milliseconds of a training step against N, K, batch and image size, estimators side by side.

    python benchmarks/step_growth.py --num_variables=1,4,16,64
    python benchmarks/step_growth.py --num_variables=1 --num_categories=10,160,1024
    python benchmarks/step_growth.py --num_variables=16 --batches=25,100,400 --sides=28,56

A `DiscreteVAE` of 300 hidden units on random bits. `direct` decodes every flip, `direct/m` those of
m variables drawn at random; gumbel_softmax decodes one code an image and is what the others are
compared with. They take turns, ten steps each, so that what else runs on the machine meets all of
them. Prints a JSON line for each shape: the median of a step of each, and its ratio to that of
gumbel_softmax.
"""

import itertools
import json

from absl import flags
from side_by_side import compiled, step_times

from tf_direct_opt.runs import command_line

FLAGS = flags.FLAGS

flags.DEFINE_list("num_variables", ["1", "4", "16"], "N.")
flags.DEFINE_list("num_categories", ["10"], "K.")
flags.DEFINE_list("batches", ["100"], "Images in a step.")
flags.DEFINE_list("sides", ["28"], "Pixels on a side of an image.")
flags.DEFINE_list(
    "estimators",
    ["direct", "direct/2", "local_expectation/2", "gumbel_softmax"],
    "Registered names, gumbel_softmax among them; name/m for num_flipped=m.",
)
flags.DEFINE_integer("repeats", 7, "Timed calls of ten steps, after one that is not.", 1)


def make_model(estimator: str, num_variables: int, num_categories: int, side: int):
    """The compiled model with one estimator."""
    from tf_direct_opt import estimators, models

    name, _, num_flipped = estimator.partition("/")
    arguments = {"num_flipped": int(num_flipped)} if num_flipped else {}
    estimator = estimators.get(name, seed=0, **arguments)
    return compiled(models.DiscreteVAE(num_variables, num_categories, estimator), side)


def measure(num_variables: int, num_categories: int, batch: int, side: int) -> dict:
    """Median CPU milliseconds of a step of every estimator, for one shape."""
    names = [name for name in FLAGS.estimators if name != "gumbel_softmax"] + ["gumbel_softmax"]
    models = {name: make_model(name, num_variables, num_categories, side) for name in names}
    shape = {"n": num_variables, "k": num_categories, "batch": batch, "side": side}
    return {**shape, **step_times(models, batch, side, FLAGS.repeats)}


def main():
    shapes = itertools.product(
        command_line.integers("num_variables", 1),
        command_line.integers("num_categories", 2),
        command_line.integers("batches", 1),
        command_line.integers("sides", 1),
    )
    from tf_direct_opt import estimators

    names = command_line.some("estimators")
    for name in names:
        estimators.get(name.partition("/")[0])  # Raises ValueError for an unknown one.
        if not name.partition("/")[2].isdigit() and "/" in name:
            raise ValueError(
                f"Expected name or name/m in --estimators; received {name}. Please give an integer."
            )
    if "gumbel_softmax" not in names:
        raise ValueError(
            f"Expected gumbel_softmax among --estimators; received {names}. Please add it: the "
            "others are compared with it."
        )
    for shape in shapes:
        print(json.dumps(measure(*shape)), flush=True)


if __name__ == "__main__":
    command_line.run(main)
