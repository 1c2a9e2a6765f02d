"""Plots the table of compare_estimators.py.

    python examples/plot_comparison.py --table=benchmarks/results/figure1.csv \
        --limits=benchmarks/results/em_limit.jsonl --output_dir=benchmarks/results

One picture for each data set and number of variables: the loss of the test images against epochs,
or decoder evaluations, and against CPU seconds; a panel for each K. A line is the mean over the
seeds, the band their range, and the legend names the schedules that were used.
"""

import collections
import csv
import json
import pathlib

import matplotlib
import numpy as np
from absl import app, flags

from tf_direct_opt.files import replacing

matplotlib.use("Agg")  # No display is needed.

import matplotlib.pyplot as plt

_TITLES = {
    "epoch": "epoch",
    "cpu_seconds": "CPU seconds of training",
    "decoder_evaluations": "decoder evaluations an image",
}


def read(path: pathlib.Path) -> list[dict]:
    """The rows of a table."""
    if not path.exists():
        raise ValueError(f"Expected the table of a comparison; {path} does not exist.")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def draw_all(
    rows: list[dict],
    limits: pathlib.Path | None,
    across: dict[str, float | None],
    directory: pathlib.Path,
) -> list[pathlib.Path]:
    """Writes comparison_<data set>.png for every data set in the rows."""
    groups = collections.defaultdict(list)
    for row in rows:
        groups[row["dataset"]].append(row)
    lines = limits.read_text().splitlines() if limits else []
    paths = []
    for dataset, members in groups.items():
        limit = {
            str(line["num_categories"]): line["test_nll"]
            for line in map(json.loads, lines)
            if line["dataset"] == dataset
        }
        figure = plot(members, limit, across)
        paths.append(directory / f"comparison_{dataset}.png")
        with replacing(paths[-1]) as temporary:
            figure.savefig(temporary, dpi=80)
        plt.close(figure)
    return paths


def plot(rows: list[dict], limit: dict[str, float], across: dict[str, float | None]):
    """The figure of one data set: a column for each K, a row for each abscissa and its end."""
    ks = sorted({int(row["k"]) for row in rows})
    single = rows[0]["num_variables"] in (1, "1")
    ordinate = "negative_elbo" if single else "bound"
    figure, axes = plt.subplots(
        len(across), len(ks), figsize=(max(1 + 3.2 * len(ks), 6), 1 + 2.6 * len(across)),
        squeeze=False, sharey="col",
    )  # fmt: skip
    curves = _curves(rows)
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


def _curves(rows: list[dict]) -> dict[tuple[int, str], list[list[dict]]]:
    """The rows of each seed, in the order of epochs, by K and estimator."""
    seeds = collections.defaultdict(list)
    for row in rows:
        seeds[int(row["k"]), row["estimator"], row["seed"]].append(row)
    curves = collections.defaultdict(list)
    for (k, estimator, _), run in seeds.items():
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
    last_betas = {run[-1]["kl_weight"] for seeds in _curves(rows).values() for run in seeds}
    if len(last_betas) > 1:
        title += f"\n(trained with different beta: {', '.join(sorted(last_betas))})"
    return title


def main(argv):
    del argv
    rows = read(pathlib.Path(_TABLE.value))
    limits = pathlib.Path(_LIMITS.value) if _LIMITS.value else None
    entries = (entry.partition(":") for entry in _ACROSS.value)
    across = {name: float(end) if end else None for name, _, end in entries}
    for path in draw_all(rows, limits, across, pathlib.Path(_OUTPUT_DIR.value)):
        print(path)


if __name__ == "__main__":
    _TABLE = flags.DEFINE_string("table", None, "comparison.csv.", required=True)
    _LIMITS = flags.DEFINE_string("limits", None, "Output of benchmarks/em_limit.py.")
    _ACROSS = flags.DEFINE_list(
        "across", ["epoch", "cpu_seconds"], "Abscissas, each NAME or NAME:END."
    )
    _OUTPUT_DIR = flags.DEFINE_string("output_dir", ".", "Folder of the pictures.")
    app.run(main)
