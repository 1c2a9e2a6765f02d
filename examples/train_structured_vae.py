"""Trains a VAE whose posterior couples binary variables.

    python examples/train_structured_vae.py --n=15 --structure=pairwise --dataset=mnist

Without further flags it trains on scikit-learn's embedded digits. --structure=none is the same
model without couplings: the control. Results go to --output_dir; the last line printed is JSON
with the figures of the test images.
"""

import importlib.util

import experiment
import presets
import program
import settings
from absl import app, flags

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
flags.DEFINE_integer(
    "num_candidates",
    16,
    "Configurations that compete for z*(eps), with --perturbation=configurations.",
    lower_bound=2,
)
flags.DEFINE_bool("nonnegative", None, "Couplings through a softplus [with maxflow only].")
flags.adopt_module_key_flags(settings)
flags.adopt_module_key_flags(experiment)

# As `pairwise_binary.MAX_VARIABLES`, which cannot be imported without TensorFlow.
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
        nonnegative=FLAGS.nonnegative,
        epsilon=settings.epsilon(feed.steps),
        difference=FLAGS.difference,
        kl_weight=settings.kl_weight(feed.steps),
        hidden_units=FLAGS.hidden_units,
        seed=FLAGS.seed,
    )


def prepare() -> experiment.Run:
    """Completes the flags by the preset, checks them and opens the output folder."""
    presets.apply("structured_direct", alone=FLAGS.n == 1)
    settings.check()
    coupled = FLAGS.structure == "pairwise"
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
            f"each of the 2^n configurations; received --solver={FLAGS.solver}."
        )
    if FLAGS.solver == "maxflow" and FLAGS.perturbation == "all":
        raise ValueError(
            "Expected --perturbation=unary with --solver=maxflow: noise on the couplings would "
            "make some of them negative. Please give another solver or perturbation."
        )
    if FLAGS.solver == "maxflow" and FLAGS.nonnegative is False:
        raise ValueError(
            "Expected --nonnegative couplings with --solver=maxflow. Please give "
            "--solver=enumerate or --solver=milp for couplings of any sign."
        )
    if FLAGS.solver == "maxflow" and importlib.util.find_spec("maxflow") is None:
        raise ValueError(
            "Expected PyMaxflow with --solver=maxflow. Please run: python -m pip install PyMaxflow"
        )
    if FLAGS.solver != "enumerate" and FLAGS.jit_compile:
        raise ValueError(
            f"Expected --nojit_compile with --solver={FLAGS.solver}, which is not TensorFlow and "
            "which XLA cannot compile."
        )
    return experiment.prepare(
        FLAGS.find_module_defining_flag("structure"),
        f"{FLAGS.dataset}-n{FLAGS.n}-{FLAGS.structure}",
    )


def main(argv):
    program.main(argv, prepare, build_model, ("n", "structure"))


if __name__ == "__main__":
    app.run(main)
