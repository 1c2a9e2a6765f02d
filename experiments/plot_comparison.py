"""Plots the table of compare_estimators.py.

    python experiments/plot_comparison.py --table=benchmarks/results/figure1_mnist.csv \
        --limits=benchmarks/results/em_limit.jsonl --output_dir=benchmarks/results

One picture for each data set and number of variables: the loss of the test images against epochs,
or decoder evaluations, and against CPU seconds; a panel for each K. A line is the mean over the
seeds, the band their range, and the legend names the schedules that were used.
"""

import collections
import csv
import json
import math
import pathlib
import sys

import numpy as np
from absl import flags

from tf_direct_opt.files import expanded, replacing
from tf_direct_opt.runs import command_line

FLAGS = flags.FLAGS

_TITLES = {
    "epoch": "epoch",
    "cpu_seconds": "CPU seconds of training",
    "decoder_evaluations": "decoder evaluations an image",
}


COLUMNS = (
    "dataset", "num_variables", "k", "estimator", "seed", "epoch", "cpu_seconds",
    "decoder_evaluations", "negative_elbo", "bound", "kl_weight", "epsilon", "temperature",
)  # fmt: skip


def read(path: pathlib.Path) -> list[dict]:
    """The rows of a table.

    Raises:
        ValueError: it is not there, or not the table of a comparison.
    """
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        for row in rows:
            _ = [float(row[name]) for name in ("epoch", "cpu_seconds", "negative_elbo", "bound")]
            _ = int(row["k"]), int(row["num_variables"]), float(row["decoder_evaluations"])
        whole = bool(rows) and all(
            isinstance(row.get(name), str) for row in rows for name in COLUMNS
        )
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise ValueError(
            f"Expected the table of a comparison; received {path}, which is not there or no such "
            "table. Please give the comparison.csv of compare_estimators.py."
        )
    return rows


def read_limits(path: str | None) -> list[dict]:
    """The lines of benchmarks/em_limit.py; none without a path.

    Raises:
        ValueError: the file is not there, or not what that program prints.
    """
    if path is None:
        return []
    try:
        lines = [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]
        if not lines:
            raise ValueError("no line")
        _ = [
            (line["dataset"], int(line["num_categories"]), float(line["test_nll"]))
            for line in lines
        ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"Expected --limits to be the output of benchmarks/em_limit.py; received {path}, which "
            "is not there or something else. Please give another file, or none."
        ) from error
    return lines


def draw_all(
    rows: list[dict],
    limits: list[dict],
    across: dict[str, float | None],
    directory: pathlib.Path,
) -> list[pathlib.Path]:
    """Writes comparison_<data set>.png for every data set and number of variables in the rows.

    Of several numbers, each is added to the name of its picture.
    """
    groups = collections.defaultdict(list)
    for row in rows:
        groups[row["dataset"], int(row["num_variables"])].append(row)
    pictures_of = collections.Counter(dataset for dataset, _ in groups)
    paths = []
    for (dataset, num_variables), members in groups.items():
        limit = {
            str(line["num_categories"]): line["test_nll"]
            for line in limits
            if line["dataset"] == dataset
        }
        figure = plot(members, limit, across)
        ending = f"_n{num_variables}" if pictures_of[dataset] > 1 else ""
        paths.append(directory / f"comparison_{dataset}{ending}.png")
        with replacing(paths[-1]) as temporary:
            figure.savefig(temporary, dpi=80)
    return paths


def plot(rows: list[dict], limit: dict[str, float], across: dict[str, float | None]):
    """The figure of one of them: a column for each K, a row for each abscissa and its end."""
    import matplotlib.figure

    ks = sorted({int(row["k"]) for row in rows})
    single = rows[0]["num_variables"] in (1, "1")
    ordinate = "negative_elbo" if single else "bound"
    figure = matplotlib.figure.Figure(figsize=(max(1 + 3.2 * len(ks), 6), 1 + 2.6 * len(across)))
    axes = figure.subplots(len(across), len(ks), squeeze=False, sharey="col")
    curves = curves_of(rows)
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(key[1] for key in curves))}
    for (k, estimator), seeds in curves.items():
        for panel, abscissa in zip(axes[:, ks.index(k)], across, strict=True):
            x = np.mean([[float(row[abscissa]) for row in seed] for seed in seeds], axis=0)
            y = np.array([[float(row[ordinate]) for row in seed] for seed in seeds])
            panel.plot(x, y.mean(axis=0), color=colours[estimator], label=_label(seeds[0]))
            panel.fill_between(x, y.min(0), y.max(0), color=colours[estimator], alpha=0.2)
    for column, k in enumerate(ks):
        for panel, abscissa in zip(axes[:, column], across, strict=True):
            panel.set_xlabel(_TITLES[abscissa])
            panel.set_xlim(0, across[abscissa])
            if single and str(k) in limit:
                panel.axhline(limit[str(k)], color="black", linestyle=":", label="EM limit")
        # What matters happens near the limit: the first epochs are left out of the picture.
        last = [
            float(seed[-1][ordinate])
            for (other, _), seeds in curves.items()
            for seed in seeds
            if other == k
        ]
        best = min([*last, limit.get(str(k), last[0])])
        axes[0, column].set_ylim(best - 2, max(max(last) + 3, best + 20))
        axes[0, column].set_title(f"K = {k}")
    axes[0, 0].set_ylabel("test -ELBO (nats)" if single else "test bound (nats)")
    handles = dict(zip(*axes[0, 0].get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles, loc="lower center", ncols=2, fontsize="small")
    figure.suptitle(_title(rows, ordinate))
    figure.tight_layout(rect=(0, 0.06 + 0.015 * len(handles), 1, 1))
    return figure


def curves_of(rows: list[dict]) -> dict[tuple[int, str], list[list[dict]]]:
    """The rows of each seed, in the order of epochs, by K and estimator.

    A seed with fewer of them than another diverged, and is left out.
    """
    seeds = collections.defaultdict(list)
    for row in rows:
        seeds[int(row["k"]), row["estimator"], row["seed"]].append(row)
    curves = collections.defaultdict(list)
    for (k, estimator, seed), run in seeds.items():
        others = [len(other) for key, other in seeds.items() if key[:2] == (k, estimator)]
        if len(run) < max(others):
            print(f"note: no curve of {estimator}, K = {k}, seed {seed}: cut.", file=sys.stderr)
        else:
            curves[k, estimator].append(run)
    return curves


def _label(run: list[dict]) -> str:
    """Estimator and schedules of a run."""
    label = run[0]["estimator"]
    for name, column in (("beta", "kl_weight"), ("epsilon", "epsilon"), ("tau", "temperature")):
        first, last = run[0][column], run[-1][column]
        if first:
            label += f", {name} {first}" + (f" to {last}" if last != first else "")
    return label


def _title(rows: list[dict], ordinate: str) -> str:
    first = rows[0]
    title = f"{first['dataset']}, N = {first['num_variables']}"
    if ordinate == "bound":
        title += "\nimportance-weighted bound on -log p(x)"
    last_betas = {run[-1]["kl_weight"] for seeds in curves_of(rows).values() for run in seeds}
    if len(last_betas) > 1:
        title += f"\n(trained with different beta: {', '.join(sorted(last_betas))})"
    return title


def abscissas(entries: list[str]) -> dict[str, float | None]:
    """NAME or NAME:END -> the end of the axis of each name, None for the last point's."""
    across = {}
    for entry in entries:
        name, _, end = entry.partition(":")
        try:
            across[name] = float(end) if end else None
        except ValueError:
            name = None
        if name not in _TITLES or not math.isfinite(across[name] or 0.0):
            raise ValueError(
                f"Expected --across of {', '.join(_TITLES)}, each alone or with :END; received "
                f"{entry!r}. Please separate them by commas."
            )
    return across


def main():
    command_line.require_packages("matplotlib")
    rows, limits = read(pathlib.Path(FLAGS.table)), read_limits(FLAGS.limits)
    across = abscissas(command_line.some("across"))
    directory = expanded(FLAGS.output_dir)
    if not directory.is_dir():
        raise ValueError(
            f"Expected --output_dir to be a folder that is there; received {FLAGS.output_dir!r}. "
            "Please make it, or give another one."
        )
    for path in draw_all(rows, limits, across, directory):
        print(path)


if __name__ == "__main__":
    flags.DEFINE_string("table", None, "comparison.csv.", required=True)
    flags.DEFINE_string("limits", None, "Output of benchmarks/em_limit.py.")
    flags.DEFINE_list("across", ["epoch", "cpu_seconds"], "Abscissas, each NAME or NAME:END.")
    flags.DEFINE_string("output_dir", ".", "Folder of the pictures.")
    command_line.run(main)
