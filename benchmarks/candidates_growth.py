"""CPU milliseconds of a training step of a VAE by candidates, against the size of its posterior.

    python benchmarks/candidates_growth.py
    python benchmarks/candidates_growth.py --posteriors=pairwise_binary/15 --estimators=2,8,64

A posterior is given as kind/size: bits with pairwise couplings, a chain of variables of four
categories, elements of which a quarter is taken. An estimator is the number of its candidates, the
noise averaged out, or plain/number for the plain difference; all are compared with the last. They
take turns, ten steps each; see side_by_side.py. 28 x 28 random bits an image, 300 hidden units.
Prints a JSON line for each posterior.
"""

import json

from absl import flags
from side_by_side import compiled, step_times

from tf_direct_opt.runs import command_line

FLAGS = flags.FLAGS

flags.DEFINE_list(
    "posteriors",
    [
        *(f"pairwise_binary/{n}" for n in (5, 10, 15, 20)),
        *(f"chain/{length}" for length in (10, 20, 50, 100, 200)),
        *(f"k_subset/{n}" for n in (20, 50, 100)),
    ],
    "kind/size of each.",
)
flags.DEFINE_list("estimators", ["8", "plain/16"], "M or plain/M of each.")
flags.DEFINE_integer("batch", 100, "Images in a step.", lower_bound=1)
flags.DEFINE_integer("repeats", 5, "Timed calls of ten steps, after one that is not.", 1)
SIDE = 28

ARGUMENTS = {
    "pairwise_binary": lambda size: {},
    "chain": lambda size: {"num_categories": 4},
    "k_subset": lambda size: {"k": max(size // 4, 1)},
}


def make_posterior(text: str):
    """The family of kind/size."""
    from tf_direct_opt import posteriors

    kind, _, size = text.partition("/")
    if kind not in ARGUMENTS or not size.isdigit():
        raise ValueError(
            f"Expected kind/size in --posteriors, a kind of {list(ARGUMENTS)}; received {text}. "
            "Please give for example chain/10."
        )
    return posteriors.get(kind, num_variables=int(size), **ARGUMENTS[kind](int(size)))


def make_model(posterior, estimator: str):
    """The compiled model of M or plain/M candidates."""
    from tf_direct_opt import estimators, models

    plain, _, count = estimator.rpartition("/")
    if plain not in ("", "plain") or not count.isdigit():
        raise ValueError(
            f"Expected M or plain/M in --estimators; received {estimator}. Please give an integer."
        )
    arguments = {"num_candidates": int(count), "averaged": not plain, "seed": 0}
    return compiled(
        models.PosteriorVAE(posterior, estimators.Candidates(posterior, **arguments)), SIDE
    )


def main():
    names = command_line.some("estimators")
    families = {text: make_posterior(text) for text in command_line.some("posteriors")}
    for text, family in families.items():
        models = {name: make_model(family, name) for name in names}
        row = step_times(models, FLAGS.batch, SIDE, FLAGS.repeats)
        print(json.dumps({"posterior": text, "batch": FLAGS.batch, **row}), flush=True)


if __name__ == "__main__":
    command_line.run(main)
