"""Trains a VAE whose posterior couples binary variables.

    python examples/train_structured_vae.py --n=15 --structure=pairwise --dataset=mnist

Without further flags it trains on scikit-learn's embedded digits. --structure=none is the same
model without couplings: the control. Results go to --output_dir; the last line printed is JSON
with the figures of the test images.
"""

import json

import data
from absl import flags

from tf_direct_opt import runs
from tf_direct_opt.runs import command_line, training, vae_flags

FLAGS = flags.FLAGS

flags.DEFINE_integer("n", 15, "Binary variables.", lower_bound=1)
flags.DEFINE_enum("structure", "pairwise", ["pairwise", "none"], "Couplings, or none.")
flags.DEFINE_enum(
    "solver",
    "enumerate",
    ["enumerate", "maxflow", "milp"],
    "Of the argmax. enumerate: any couplings, n <= 20. maxflow: couplings >= 0, by a softplus. "
    "milp: any couplings, slow.",
)
flags.DEFINE_enum(
    "perturbation",
    None,
    ["unary", "all", "configurations"],
    "Noise on the unary potentials (the authors'), on pairs as well, or on each of the 2^n "
    "configurations (exact draws of the Gibbs distribution) [the last if the solver enumerates, "
    "else the first].",
)
flags.DEFINE_bool(
    "averaged",
    None,
    "Average the noise out given the candidates [wherever --perturbation=configurations].",
)
flags.DEFINE_integer(
    "num_candidates",
    None,
    "Configurations that compete for z*(eps), with --perturbation=configurations [8, or 16 with "
    "--noaveraged].",
    lower_bound=2,
)
flags.DEFINE_bool("nonnegative", None, "Couplings through a softplus [with maxflow only].")
flags.adopt_module_key_flags(vae_flags)  # --hidden_units, --epsilon, --kl_weight, ...
flags.adopt_module_key_flags(training)  # --epochs, --learning_rate, --output_dir, --resume, ...
flags.adopt_module_key_flags(data)  # --dataset, --data_dir, ...

# As `binary.MAX_VARIABLES`, which cannot be imported without TensorFlow.
_MAX_ENUMERATED = 20


def build_model(feed):
    """The `StructuredVAE` that the flags describe."""
    import tf_direct_opt as tdo

    return tdo.models.StructuredVAE(
        num_variables=FLAGS.n,
        structure=FLAGS.structure,
        solver=FLAGS.solver,
        perturbation=FLAGS.perturbation,
        num_candidates=FLAGS.num_candidates,
        averaged=FLAGS.averaged,
        nonnegative=FLAGS.nonnegative,
        epsilon=vae_flags.epsilon(feed.steps),
        difference=FLAGS.difference,
        kl_weight=vae_flags.kl_weight(feed.steps),
        hidden_units=FLAGS.hidden_units,
        likelihood=FLAGS.likelihood,
        seed=FLAGS.seed,
    )


def make_feed():
    """The images in batches, in another order every epoch."""
    from tf_direct_opt.runs import batches

    return batches.ImageFeed(data.from_flags(), FLAGS.batch_size, FLAGS.seed)


def prepare() -> runs.Run:
    """Completes the flags by the preset, and checks them and the output folder."""
    can_average = (
        FLAGS.solver == "enumerate"
        and FLAGS.perturbation in (None, "configurations")
        and FLAGS.n <= _MAX_ENUMERATED
    )
    if FLAGS.averaged is None:
        FLAGS.averaged = can_average
    if FLAGS.num_candidates is None:
        FLAGS.num_candidates = 8 if FLAGS.averaged else 16
    vae_flags.complete("averaged" if FLAGS.averaged else "structured", alone=FLAGS.n == 1)
    data.check_flags()
    coupled = FLAGS.structure == "pairwise"
    if not coupled:
        vae_flags.say_unread(["nonnegative"], "with --structure=none")
    if not can_average:
        vae_flags.say_unread(["num_candidates"], "without --perturbation=configurations")
    if coupled and FLAGS.solver == "enumerate" and FLAGS.n > _MAX_ENUMERATED:
        raise ValueError(
            f"Expected --n of at most {_MAX_ENUMERATED} with --solver=enumerate; received "
            f"{FLAGS.n}. Please give --solver=maxflow or --solver=milp."
        )
    if FLAGS.perturbation == "configurations" and FLAGS.n > _MAX_ENUMERATED:
        raise ValueError(
            f"Expected --n of at most {_MAX_ENUMERATED} with --perturbation=configurations; "
            f"received {FLAGS.n}. Please give --perturbation=unary."
        )
    if FLAGS.solver != "enumerate" and FLAGS.perturbation == "configurations":
        raise ValueError(
            "Expected --solver=enumerate with --perturbation=configurations, which gives noise to "
            f"each of the 2^n configurations; received --solver={FLAGS.solver}. Please give "
            "--perturbation=unary."
        )
    if FLAGS.averaged and not can_average:
        raise ValueError(
            "Expected --solver=enumerate, --perturbation=configurations and --n of at most "
            f"{_MAX_ENUMERATED} with --averaged: noise on each configuration is averaged out."
        )
    if FLAGS.solver == "maxflow" and FLAGS.perturbation == "all":
        raise ValueError(
            "Expected --perturbation=unary with --solver=maxflow; received all: noise on the "
            "couplings would make some of them negative. Please give another of the two."
        )
    if FLAGS.solver == "maxflow" and FLAGS.nonnegative is False:
        raise ValueError(
            "Expected --nonnegative couplings with --solver=maxflow; received --nononnegative. "
            "Please give --solver=enumerate or --solver=milp for couplings of any sign."
        )
    if FLAGS.solver == "maxflow":
        command_line.require_packages("maxflow")
    if FLAGS.solver == "milp":
        command_line.require_packages("scipy")
    if FLAGS.solver != "enumerate" and FLAGS.jit_compile:
        raise ValueError(
            f"Expected --nojit_compile with --solver={FLAGS.solver}, which is not TensorFlow and "
            "which XLA cannot compile; received --jit_compile. Please leave it out."
        )
    if FLAGS.structure == "pairwise":
        statistics = FLAGS.n * (FLAGS.n + 1) // 2
        command_line.require_memory(
            statistics * (3 * FLAGS.hidden_units + 4 * FLAGS.batch_size), "fewer --n"
        )
        if FLAGS.solver != "enumerate" and FLAGS.n > 50:
            training.say(
                f"Every step solves {2 * FLAGS.batch_size} problems of {FLAGS.n} variables and "
                f"{statistics - FLAGS.n} couplings on the CPU: it takes seconds, or minutes."
            )
    return training.prepare(
        FLAGS.find_module_defining_flag("structure"),
        f"{FLAGS.dataset}-n{FLAGS.n}-{FLAGS.structure}",
    )


def main():
    # TensorFlow takes seconds to import; mistakes in a command line are answered before.
    with prepare() as run:
        figures = training.train(run, make_feed(), build_model)
    print(json.dumps({"n": FLAGS.n, "structure": FLAGS.structure, **figures}))


if __name__ == "__main__":
    command_line.run(main)
