r"""Predict, then optimise: a network predicts costs, a solver decides, the decision is what counts.

    python examples/predict_then_optimize.py --seeds=1,2,3,4,5,6,7,8,9,10
    python examples/predict_then_optimize.py --method=spo_plus --degree=6 --output_dir=runs/path

The data are those of the field's benchmark (Elmachtoub, Grigas, "Smart Predict, then Optimize",
2022, in the form of PyEPO): costs that are a polynomial of `--degree` in the features, times a
uniform factor from 1 - `--noise` to 1 + `--noise`, and a linear model, which cannot represent them.
The default is the published setting: paths through a grid of 5 x 5, degree 4, noise 0.5, 1000
training and 1000 test examples, Adam 1e-2, batch 32, 20 epochs.

The regret of a decision is its true cost over that of the best one, summed over the test examples
and divided by the sum of the best. The floor is the regret of a predictor that knows the mean cost
of every example (of items, before it is rounded). The last line is JSON: `test_regret` is the mean
over the seeds, in percent.
"""

import json
import pathlib
import time

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from sklearn.model_selection import train_test_split

import tf_direct_opt as tdo
from tf_direct_opt import decisions, files
from tf_direct_opt.runs import batches, command_line

FLAGS = flags.FLAGS
METHODS = ("direct", "relative", "fenchel_young", "spo_plus", "imle", "blackbox", "two_stage")
flags.DEFINE_enum("problem", "path", ["path", "knapsack", "assignment"], "What is decided.")
flags.DEFINE_enum("method", "direct", METHODS, "How the predictor is trained.")
flags.DEFINE_integer("degree", 4, "Of the polynomial from features to costs.", 1, 100)
flags.DEFINE_float("noise", 0.5, "Half-width of the factor on the costs.", 0.0, 1.0)
flags.DEFINE_integer("size", None, "Side of the grid (5), items (32), or rows to assign (6).", 2)
flags.DEFINE_list("seeds", ["1"], "One training for each: initial weights, order, noise.")
flags.DEFINE_integer("epochs", 20, "Passes over the training examples.", lower_bound=1)
flags.DEFINE_integer("batch_size", 32, "Examples in a step.", lower_bound=1)
flags.DEFINE_integer("num_examples", 2000, "Half of them are the test examples.", lower_bound=2)
flags.DEFINE_float("learning_rate", 1e-2, "Of Adam.", lower_bound=0.0)
flags.DEFINE_float("epsilon", None, "Step, for each unit of cost; None: that of the method.")
flags.DEFINE_float("noise_scale", None, "Of the perturbation; None: that of the method.")
flags.DEFINE_enum("difference", None, tdo.direct.DIFFERENCES, "Sign; None: that of the method.")
flags.DEFINE_integer("num_samples", 1, "Perturbations an example.", lower_bound=1)
flags.DEFINE_string("output_dir", None, "Folder for result.json, regret.csv and regret.png.")
for _name in ("epsilon", "noise_scale"):
    flags.register_validator(_name, lambda value: value is None or value > 0, "has to be positive")

# epsilon, noise, its scale, sign of the step.
LAYERS = {
    "direct": (2.0, "gumbel", 0.3, "central"),
    "relative": (1.0, "gumbel", 0.3, "central"),
    "imle": (10.0, "sum_of_gamma", 0.5, "toward_better"),
    "blackbox": (10.0, None, 0.0, "toward_better"),
}
SETTINGS = ("difference", "epsilon", "noise_scale", "num_samples")
UNREAD = {
    "blackbox": SETTINGS[2:], "fenchel_young": SETTINGS[:2], "spo_plus": SETTINGS,
    "two_stage": SETTINGS,
}  # fmt: skip
SIZES = {"path": 5, "knapsack": 32, "assignment": 6}
NUM_FEATURES, DATA_SEED = 5, 42


def make_data(problem: str, size: int, degree: int, noise: float, num_examples: int):
    """`(solver, features [n, 5], costs, mean costs before rounding [n, *event_shape])`."""
    random = np.random.RandomState(DATA_SEED)
    if problem == "path":
        solver = tdo.solvers.DagPath(tdo.solvers.grid_edges(size, size))
        event_shape = (2 * size * (size - 1),)
    elif problem == "knapsack":
        weights = random.choice(range(3, 8), size)
        solver = tdo.solvers.Knapsack(weights, capacity=20)
        event_shape = (size,)
    else:
        solver = tdo.solvers.Assignment()
        event_shape = (size, size)
    coefficients = random.binomial(1, 0.5, (int(np.prod(event_shape)), NUM_FEATURES))
    features = random.normal(0, 1, (num_examples, NUM_FEATURES))
    mean = (features @ coefficients.T / np.sqrt(NUM_FEATURES) + 3) ** degree + 1
    mean /= 3.5**degree
    costs = mean * random.uniform(1 - noise, 1 + noise, mean.shape)
    if problem == "knapsack":
        costs = np.ceil(5 * costs) / 5  # The field's values are whole numbers, here in fives.
    costs, mean = (table.reshape(-1, *event_shape) for table in (costs, mean))
    return solver, features, costs, mean


def make_model(method: str, solver, targets, minimize: bool) -> keras.Model:
    """The compiled predictor; with the layer a decision comes out of it, else the costs."""
    event_shape, num_best = targets.shape[2:], np.sum(targets[:, 1]) / len(targets)
    features = keras.Input((NUM_FEATURES,))
    costs = keras.layers.Dense(int(np.prod(event_shape)), name="costs")(features)
    costs = keras.layers.Reshape(event_shape)(costs)
    output, regret = costs, decisions.Regret(solver, minimize)
    if method in LAYERS:
        epsilon, noise, noise_scale, difference = LAYERS[method]
        output = tdo.layers.PerturbedArgmax(
            FLAGS.epsilon or epsilon, solver, 0, FLAGS.difference or difference,
            minimize=minimize, noise=noise,
            noise_scale=noise_scale if FLAGS.noise_scale is None else FLAGS.noise_scale,
            loss_scale="relative" if method == "relative" else None,
            num_samples=FLAGS.num_samples, num_ones=round(num_best), name="decision",
        )(costs)  # fmt: skip
        loss, regret = decisions.DecisionLoss(minimize), decisions.Regret(minimize=minimize)
    elif method == "fenchel_young":
        scale = 1.0 if FLAGS.noise_scale is None else FLAGS.noise_scale
        loss = decisions.PerturbedFenchelYoung(
            solver, "gumbel", scale, FLAGS.num_samples, minimize, seed=0
        )
    elif method == "spo_plus":
        loss = decisions.SPOPlus(solver, minimize)
    else:

        def loss(targets, costs):
            return tf.reduce_mean((targets[:, 0] - costs) ** 2, axis=-1)

    model = keras.Model(features, output)
    model.compile(
        keras.optimizers.Adam(FLAGS.learning_rate), loss, metrics=[regret], steps_per_execution=32
    )
    model.optimizer.build(model.trainable_variables)
    return model


def run(model: keras.Model, start: list, train, test, seed: int) -> list[float]:
    """Trains from the beginning and returns the test regret in percent, epoch by epoch."""
    # The same model for every seed, set back: its compiled step is made once.
    for variable, value in zip(model.variables + model.optimizer.variables, start, strict=True):
        variable.assign(value)
    keras.utils.set_random_seed(seed)
    kernel = model.get_layer("costs").kernel
    kernel.assign(keras.initializers.GlorotUniform(seed)(kernel.shape))
    noisy = model.get_layer("decision") if model.layers[-1].name == "decision" else model.loss
    if hasattr(noisy, "seeds"):
        noisy.seeds.state.assign([seed, 0])
    # A cached data set costs a third of what arrays do, at so short a step.
    data = tf.data.Dataset.from_tensor_slices(train).cache().shuffle(len(train[0]), seed)
    history = model.fit(
        batches.untuned(data.batch(FLAGS.batch_size)),
        epochs=FLAGS.epochs,
        shuffle=False,
        validation_data=batches.untuned(tf.data.Dataset.from_tensors(test).cache()),
        verbose=0,
    )
    return [100 * value for value in history.history["val_regret"]]


def write(directory: pathlib.Path, result: dict, curves: np.ndarray) -> None:
    """Result, regrets of every epoch, and their picture."""
    import matplotlib.figure

    with files.replacing(directory / "result.json") as temporary:
        temporary.write_text(json.dumps(result, indent=2))
    epochs, mean, deviation = np.arange(1, FLAGS.epochs + 1), curves.mean(0), curves.std(0)
    header = ",".join(["epoch", *(f"seed_{seed}" for seed in FLAGS.seeds)])
    with files.replacing(directory / "regret.csv") as temporary:
        np.savetxt(temporary, np.c_[epochs, curves.T], "%.6g", ",", header=header, comments="")
    figure = matplotlib.figure.Figure((5, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(epochs, mean, label=FLAGS.method)
    axes.fill_between(epochs, mean - deviation, mean + deviation, alpha=0.3)
    axes.axhline(result["floor"], color="black", linestyle=":", label="knows the mean cost")
    axes.set(xlabel="epoch", ylabel="test regret, %", title=f"{FLAGS.problem}, {FLAGS.degree}")
    axes.legend()
    with files.replacing(directory / "regret.png") as temporary:
        figure.savefig(temporary, dpi=100)


def main():
    command_line.refuse(UNREAD.get(FLAGS.method, ()), f"with --method={FLAGS.method}")
    seeds = command_line.integers("seeds")
    if FLAGS.output_dir is not None:
        command_line.require_packages("matplotlib")
        command_line.make_folder(FLAGS.output_dir, ["result.json"])
    began, minimize = time.time(), FLAGS.problem != "knapsack"
    solver, features, costs, mean = make_data(
        FLAGS.problem, FLAGS.size or SIZES[FLAGS.problem], FLAGS.degree, FLAGS.noise,
        FLAGS.num_examples,
    )  # fmt: skip
    targets = decisions.targets(costs, solver, minimize)
    x_train, x_test, y_train, y_test, _, mean_test = train_test_split(
        features.astype(np.float32), targets, mean, test_size=len(mean) // 2, random_state=42
    )
    floor = decisions.Regret(solver, minimize)
    floor.update_state(y_test, mean_test)
    model = make_model(FLAGS.method, solver, y_train, minimize)
    start = [variable.numpy() for variable in model.variables + model.optimizer.variables]
    curves = []
    for seed in seeds:
        curves.append(run(model, start, (x_train, y_train), (x_test, y_test), seed))
        print(f"seed {seed}: test regret {curves[-1][-1]:.2f} %", flush=True)
    curves = np.array(curves)
    result = {
        "problem": FLAGS.problem,
        "method": FLAGS.method,
        "degree": FLAGS.degree,
        "noise": FLAGS.noise,
        "test_regret": round(float(curves[:, -1].mean()), 3),
        "test_regret_sd": round(float(curves[:, -1].std(ddof=len(curves) > 1)), 3),
        "test_regrets": np.round(curves[:, -1], 3).tolist(),
        "floor": round(100 * float(floor.result()), 3),
        "seconds": round(time.time() - began, 1),
        "flags": command_line.given(),
    }
    if FLAGS.output_dir:
        write(command_line.make_folder(FLAGS.output_dir), result, curves)
    print(json.dumps(result))


if __name__ == "__main__":
    command_line.run(main)
