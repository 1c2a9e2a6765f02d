r"""The paper's table: accuracy over numbers of labels, data sets, methods and seeds.

    python experiments/semi_supervised_table.py --flagfile=flags/semi_supervised_table.flags \
        --output_dir=runs/semi_supervised

Every cell is a run of train_semi_supervised.py in a folder of its own; flags that are given hold
for all of them. Methods: direct; gumbel_softmax, with the cross-entropy of the labels; supervised,
the same encoder trained by the labels alone, for --supervised_epochs. Given the same --output_dir
again, finished cells are kept and a cut one goes on where it was. --processes trains several cells
at once; --shard, on several machines.

Into --output_dir: semi_supervised.csv, one row a cell, and semi_supervised.md, the table of mean
and standard deviation over the seeds. The last line printed is JSON with the same.
"""

import itertools
import json
import pathlib
import statistics

import _examples  # noqa: F401
import data
import grid
import train_semi_supervised
from absl import flags

from tf_direct_opt.runs import command_line

FLAGS = flags.FLAGS

flags.DEFINE_list("datasets", ["digits"], "Data sets.")
flags.DEFINE_list("label_counts", ["50", "100"], "Numbers of labels.")
flags.DEFINE_list("methods", ["direct", "supervised", "gumbel_softmax"], "Methods.")
flags.DEFINE_list("seeds", ["1", "2", "3"], "Seeds.")
flags.DEFINE_list("once", ["gumbel_softmax"], "Methods that get the first seed only.")
_SUPERVISED_EPOCHS = flags.DEFINE_integer(
    "supervised_epochs", 4, "Epochs of the supervised baseline.", lower_bound=1
)
flags.adopt_module_key_flags(grid)  # --shard, --processes
flags.adopt_module_key_flags(train_semi_supervised)

METHODS = {
    "direct": {"supervised": False, "estimator": "direct", "label_loss": "direct"},
    "gumbel_softmax": {
        "supervised": False,
        "estimator": "gumbel_softmax",
        "label_loss": "cross_entropy",
    },
    "supervised": {"supervised": True},
}
COLUMNS = ("dataset", "num_labels", "method", "seed", "epochs", "cpu_seconds", "accuracy")


def cells() -> list[dict]:
    """Data set, number of labels, method and seed of every run; the seeds vary last.

    Raises:
        ValueError: a flag of the table that cannot be read, or one of train_semi_supervised.py
            that would have no effect.
    """
    grid.refuse({"dataset": "datasets", "num_labels": "label_counts", "seed": "seeds"})
    grid.refuse(dict.fromkeys(METHODS["direct"], "methods"))
    datasets = command_line.choices("datasets", data.DATASETS)
    counts, seeds = command_line.integers("label_counts", 1), command_line.integers("seeds")
    methods, once = command_line.choices("methods", METHODS), FLAGS.once
    if FLAGS["once"].present and not set(once) <= set(methods):
        raise ValueError(
            f"Expected --once of the methods that are run, {', '.join(methods)}; received "
            f"{','.join(once)!r}. Please give some of them, or nothing."
        )
    return [
        {"dataset": dataset, "num_labels": count, "method": method, "seed": seed}
        for dataset, count, method in itertools.product(datasets, counts, methods)
        for seed in (seeds[:1] if method in once else seeds)
    ]


def name_of(cell: dict) -> str:
    """The folder of a cell."""
    return "{dataset}-{num_labels}-{method}-s{seed}".format(**cell)


def changes_of(cell: dict) -> dict:
    """The flags of train_semi_supervised.py that a cell changes."""
    changes = {key: cell[key] for key in ("dataset", "num_labels", "seed")}
    changes["output_dir"] = str(pathlib.Path(FLAGS.output_dir) / name_of(cell))
    if cell["method"] == "supervised":
        epochs = _SUPERVISED_EPOCHS.value
        changes |= {"epochs": epochs, "watch_every": min(FLAGS.watch_every, epochs)}
    return {**changes, **METHODS[cell["method"]]}


def row_of(cell: dict) -> dict:
    """The row of a finished cell.

    Raises:
        ValueError: files of the cell are damaged.
    """
    metrics, history = grid.results_of(name_of(cell))
    with grid.reading(pathlib.Path(FLAGS.output_dir) / name_of(cell) / "metrics.json"):
        return {
            **cell,
            "epochs": metrics["epochs"],
            "cpu_seconds": f"{sum(row['cpu_seconds'] for row in history):.1f}",
            "accuracy": f"{100 * metrics['test']['accuracy']:.2f}",
        }


def summary(rows: list[dict]) -> list[dict]:
    """Mean and standard deviation over the seeds, in percent."""
    by_cell = {}
    for row in rows:
        key = (row["dataset"], row["method"], row["num_labels"])
        by_cell.setdefault(key, []).append(float(row["accuracy"]))
    return [
        {
            "dataset": dataset,
            "method": method,
            "num_labels": count,
            "seeds": len(figures),
            "accuracy": round(statistics.mean(figures), 2),
            "deviation": round(statistics.stdev(figures), 2) if len(figures) > 1 else None,
        }
        for (dataset, method, count), figures in by_cell.items()
    ]


def markdown(lines: list[dict]) -> str:
    """A table of data sets and methods against numbers of labels."""
    counts = sorted({line["num_labels"] for line in lines})
    entries = {}
    for line in lines:
        entry = f"{line['accuracy']:.2f}"
        if line["deviation"] is not None:
            entry += f" ({line['deviation']:.2f})"
        entries.setdefault((line["dataset"], line["method"]), {})[line["num_labels"]] = entry
    table = [["data", "method", *map(str, counts)], ["---"] * (2 + len(counts))]
    for (dataset, method), by_count in entries.items():
        table.append([dataset, f"`{method}`", *(by_count.get(count, "") for count in counts)])
    return "".join(f"| {' | '.join(row)} |\n" for row in table)


def write(every: list[dict]) -> list[dict]:
    """Writes semi_supervised.csv and .md of all cells that are finished; returns their rows."""
    from tf_direct_opt.files import replacing

    with grid.in_turn():
        rows = [row_of(cell) for cell in every if grid.finished(name_of(cell))]
        path = grid.write_table("semi_supervised.csv", COLUMNS, rows)
        with replacing(path.with_suffix(".md")) as temporary:
            temporary.write_text(markdown(summary(rows)))
    return rows


def main():
    command_line.require_packages("matplotlib")
    every = cells()
    with grid.folder():
        names = [name_of(cell) for cell in every]
        changes = [changes_of(cell) for cell in grid.own(every)]
        grid.check(changes, train_semi_supervised)
        grid.in_processes(grid.own(names))
        for _ in grid.trained(changes, train_semi_supervised):
            write(every)
        rows = write(every)
        grid.say_left(names)
    print(json.dumps(summary(rows)))


if __name__ == "__main__":
    command_line.run(main)
