r"""Compares estimators over categories, data sets and seeds, under one roof and one table.

    python experiments/compare_estimators.py --flagfile=flags/figure1_mnist.flags \
        --output_dir=runs/figure1

Every cell of the grid is a run of train_vae.py in a folder of its own, with the schedules that
`tf_direct_opt.runs.presets` has for its estimator; flags that are given hold for all of them. All
cells get --epochs epochs or, where budgets are given, as many as spend them: decoder evaluations an
image, CPU seconds. Given the same --output_dir again, finished cells are kept and a cut one goes on
where it was. --processes trains several cells at once; --shard, on several machines.

Into --output_dir: comparison.csv, one row for each evaluation of each cell, with figures of the
test images; and for each data set comparison_<data set>.png, drawn by plot_comparison.py. The last
line printed is JSON with the last figures, mean and spread over the seeds.
"""

import functools
import itertools
import json
import math
import pathlib
import statistics

import _examples  # noqa: F401
import data
import grid
import plot_comparison
import train_vae
from absl import flags
from absl.testing import flagsaver

from tf_direct_opt.runs import command_line, estimator_flags, training

FLAGS = flags.FLAGS

flags.DEFINE_list("datasets", ["digits"], "Data sets.")
flags.DEFINE_list("ks", ["10"], "Numbers of categories.")
flags.DEFINE_list(
    "estimators", ["direct", "exact", "gumbel_softmax", "straight_through"], "Estimators."
)
flags.DEFINE_list("seeds", ["1", "2", "3"], "Seeds.")
_EVALUATIONS = flags.DEFINE_integer(
    "decoder_evaluations",
    None,
    "Budget of every cell, an image.",
    lower_bound=1,
)
_CPU_SECONDS = flags.DEFINE_float(
    "cpu_seconds", None, "Budget of every cell; what an epoch takes is measured.", lower_bound=1.0
)
_LIMITS = flags.DEFINE_string(
    "limits", None, "Output of benchmarks/em_limit.py, drawn as lines into the plots."
)
flags.adopt_module_key_flags(grid)  # --shard, --processes
flags.adopt_module_key_flags(train_vae)

_NO_SECONDS = (*training.FREE_ON_RESUME, "resume")


def cells() -> list[dict]:
    """The flags of train_vae.py for every cell; seeds vary last, estimators before them.

    Raises:
        ValueError: a flag of the grid that cannot be read, or one of train_vae.py that would
            have no effect.
    """
    grid.refuse({"dataset": "datasets", "k": "ks", "estimator": "estimators", "seed": "seeds"})
    if FLAGS["watch"].present:
        raise ValueError(
            "Expected no --watch here, where the test images are evaluated; received "
            f"--watch={FLAGS.watch}. Please leave it out."
        )
    # omniglot_small may stand for two of them.
    datasets = dict.fromkeys(map(_available, command_line.choices("datasets", data.DATASETS)))
    estimators = command_line.some("estimators")
    ks, seeds = command_line.integers("ks", 2), command_line.integers("seeds")
    names = ("dataset", "k", "estimator", "seed")
    return [
        dict(zip(names, values, strict=True))
        for values in itertools.product(datasets, ks, estimators, seeds)
    ]


def _available(dataset: str) -> str:
    """The data set, or the small Omniglot where the full one is not prepared."""
    if dataset == "omniglot":
        try:
            data.require_prepared(dataset, FLAGS.data_dir, FLAGS.download)
        except ValueError:
            training.say("The full omniglot is not prepared: omniglot_small stands in for it.")
            return "omniglot_small"
    return dataset


def known_changes(cell: dict) -> dict:
    """The flags of train_vae.py that a cell changes, without those that a budget does."""
    return {
        **cell,
        "watch": "test",
        "output_dir": str(pathlib.Path(FLAGS.output_dir, name_of(cell))),
    }


def changes_of(cell: dict) -> dict:
    """The flags of train_vae.py that a cell changes."""
    changes = known_changes(cell)
    epochs = [budget / cost_an_epoch(cell, name) for name, budget in budgets().items()]
    if epochs:
        # About six evaluations within the smaller budget, the last where the larger is spent.
        every = max(round(min(epochs) / 6), 1)
        changes |= {"watch_every": every, "epochs": every * math.ceil(max(epochs) / every)}
    return changes


def budgets() -> dict[str, float]:
    """The budgets that are given, by the column of the table that counts them."""
    given = {"decoder_evaluations": _EVALUATIONS.value, "cpu_seconds": _CPU_SECONDS.value}
    return {name: budget for name, budget in given.items() if budget is not None}


def cost_an_epoch(cell: dict, budget: str) -> float:
    """What an epoch of the cell takes of a budget."""
    measure = {"decoder_evaluations": decoder_evaluations, "cpu_seconds": cpu_seconds_an_epoch}
    return measure[budget](cell)


def name_of(cell: dict) -> str:
    """The folder of a cell."""
    return "{dataset}-k{k}-{estimator}-s{seed}".format(**cell)


def decoder_evaluations(cell: dict) -> float:
    """Codes that the decoder decodes for one image in one step of the cell's estimator."""
    return _decoder_evaluations(cell["estimator"], cell["k"])


@functools.cache
def _decoder_evaluations(name: str, k: int) -> float:
    from evaluations import decoder_evaluations

    with flagsaver.flagsaver(estimator=name, warmup_epochs=0):
        estimator = estimator_flags.build(steps_an_epoch=1)
    return decoder_evaluations(estimator, FLAGS.num_variables, k, FLAGS.batch_size)


def cpu_seconds_an_epoch(cell: dict) -> float:
    """What an epoch of the cell's estimator takes; measured once, then read from a file."""
    from tf_direct_opt.files import replacing

    path = pathlib.Path(FLAGS.output_dir) / "cpu_seconds.json"
    name = " ".join(["{dataset}-k{k}-{estimator}".format(**cell), *_given()])
    with grid.in_turn():
        measured = {}
        if path.exists():
            with grid.reading(path):
                found = json.loads(path.read_text(encoding="utf-8"))
                measured = {key: float(seconds) for key, seconds in found.items()}
                if not all(0 < seconds < math.inf for seconds in measured.values()):
                    raise ValueError("seconds that are not above 0")
        if name not in measured:
            training.say(f"Measuring the seconds of an epoch of {name}.")
            with flagsaver.flagsaver(**cell, output_dir=None, resume=False):
                train_vae.prepare()
                measured[name] = training.cpu_seconds_an_epoch(
                    train_vae.make_feed(), train_vae.build_model
                )
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(measured, indent=2) + "\n")
    return measured[name]


def _given() -> list[str]:
    """The flags of train_vae.py that were given, but for those that no epoch takes longer by."""
    module = FLAGS.find_module_defining_flag("k")
    return sorted(
        flag.serialize()
        for flag in FLAGS.get_key_flags_for_module(module)
        if flag.present and flag.name not in _NO_SECONDS
    )


def rows_of(cell: dict) -> list[dict]:
    """The rows of a finished cell in the table.

    Raises:
        ValueError: files of the cell are damaged.
    """
    bound = "negative_log_likelihood" if FLAGS.num_variables == 1 else "importance_weighted_nll"
    evaluations, seconds, rows = decoder_evaluations(cell), 0.0, []
    _, histories = grid.results_of(name_of(cell))
    with grid.reading(pathlib.Path(FLAGS.output_dir) / name_of(cell) / "history.csv"):
        for epoch, history in enumerate(histories, 1):
            seconds += history["cpu_seconds"]
            if history["val_loss"] is None:  # No evaluation after this epoch.
                continue
            row = {**cell, "num_variables": FLAGS.num_variables, "epoch": epoch}
            row["cpu_seconds"] = f"{seconds:.1f}"
            row["decoder_evaluations"] = f"{epoch * evaluations:g}"
            row["negative_elbo"] = f"{history['val_loss']:.2f}"
            row["bound"] = f"{history[f'val_{bound}']:.2f}"
            for name in ("kl_weight", "epsilon", "temperature"):
                row[name] = f"{history[name]:.3g}" if name in history else ""
            rows.append(row)
    return rows


def write_table(every: list[dict]) -> list[dict]:
    """Writes the rows of all cells that are finished, of whichever shard, and returns them."""
    with grid.in_turn():
        rows = [row for cell in every if grid.finished(name_of(cell)) for row in rows_of(cell)]
        grid.write_table("comparison.csv", plot_comparison.COLUMNS, rows)
    return rows


def summary(rows: list[dict]) -> list[dict]:
    """The last figures of each data set, K and estimator: mean and range over the seeds.

    Under each budget, where there are any: the last evaluation that does not exceed it by more
    than the twentieth part that an epoch's seconds may differ from what was measured.
    """
    lines = []
    for budget, limit in (budgets() or {"epoch": FLAGS.epochs}).items():
        last = {}
        for row in rows:
            if _within(row, budget, limit):
                key = (row["dataset"], row["k"], row["estimator"])
                last.setdefault(key, {})[row["seed"]] = row
        for (dataset, k, estimator), by_seed in last.items():
            line = {"dataset": dataset, "k": k, "estimator": estimator, "seeds": len(by_seed)}
            line[budget] = limit
            for name in ("negative_elbo", "bound"):
                figures = [float(row[name]) for row in by_seed.values()]
                line[name] = round(statistics.mean(figures), 2)
                line[f"{name}_range"] = round(max(figures) - min(figures), 2)
            lines.append(line)
    return lines


def _within(row: dict, budget: str, limit: float) -> bool:
    return float(row[budget]) <= 1.05 * limit


def say_beyond(rows: list[dict]) -> None:
    """Says which cells have no evaluation within a budget, and thus no part in the summary."""
    for budget, limit in budgets().items():
        within = {name_of(row) for row in rows if _within(row, budget, limit)}
        beyond = dict.fromkeys(name for row in rows if (name := name_of(row)) not in within)
        if beyond:
            training.say(
                f"The first evaluation is beyond --{budget}={limit:g}, and the last line without "
                f"it, of {', '.join(beyond)}."
            )


def main():
    if len(budgets()) > 1 and FLAGS.learning_rate_schedule != "constant":
        raise ValueError(
            "Expected --learning_rate_schedule=constant with two budgets: another one would be "
            f"cut short by the smaller; received {FLAGS.learning_rate_schedule}."
        )
    command_line.require_packages("matplotlib")
    limits = plot_comparison.read_limits(_LIMITS.value)
    every = cells()
    with grid.folder() as folder:
        own, names = grid.own(every), [name_of(cell) for cell in every]
        # The budgets, which are measured, come after what costs nothing to check; a run that has
        # begun knows its own.
        begun = {cell for cell in names if budgets() and (folder / cell / "flags.txt").exists()}
        new = [cell for cell in own if name_of(cell) not in begun]
        grid.check(map(known_changes, new), train_vae)
        grid.in_processes(grid.own(names))
        for _ in grid.trained(map(changes_of, own), train_vae):
            write_table(every)
        rows = write_table(every)
        across = budgets() or {"epoch": None, "cpu_seconds": None}
        plot_comparison.draw_all(rows, limits, across, folder)
        grid.say_left(names)
        for name in ("epochs", "watch_every"):
            if budgets() and FLAGS[name].present:  # A flagfile may have them for no budget.
                training.say(f"--{name} changes nothing here: it follows from the budget.")
        say_beyond(rows)
    print(json.dumps(summary(rows)))


if __name__ == "__main__":
    command_line.run(main)
