"""Figure 1 of the paper: all data sets, all estimators, every K, in one picture.

    python experiments/figure1.py --output=benchmarks/results/figure1.png

A column for each table of compare_estimators.py. Above, the -ELBO of the test images at the end of
training against K; below, against epochs for one K. A line is the mean over the seeds, a band their
range, dotted what EM reaches for a mixture of K Bernoulli vectors.
"""

import pathlib

import numpy as np
import plot_comparison
from absl import flags

from tf_direct_opt.files import expanded, replacing
from tf_direct_opt.runs import command_line

FLAGS = flags.FLAGS

RESULTS = pathlib.Path(__file__).parents[1] / "benchmarks/results"
NAMES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "omniglot": "Omniglot"}


def plot(tables: list[list[dict]], limits: list[dict], shown_k: int):
    """The figure: a column for each table."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(3.6 * len(tables), 6.6), layout="constrained")
    axes = figure.subplots(2, len(tables), squeeze=False)
    estimators = list(dict.fromkeys(row["estimator"] for rows in tables for row in rows))
    for (above, below), rows in zip(axes.T, tables, strict=True):
        limit = {
            int(line["num_categories"]): line["test_nll"]
            for line in limits
            if line["dataset"] == rows[0]["dataset"]
        }
        curves = plot_comparison.curves_of(rows)
        for number, estimator in enumerate(estimators):
            by_k = {k: seeds for (k, name), seeds in sorted(curves.items()) if name == estimator}
            last = [[float(seed[-1]["negative_elbo"]) for seed in by_k[k]] for k in by_k]
            _draw(above, list(by_k), last, estimator, number)
            if shown_k in by_k:
                epochs = [float(row["epoch"]) for row in by_k[shown_k][0]]
                seeds = [[float(row["negative_elbo"]) for row in seed] for seed in by_k[shown_k]]
                _draw(below, epochs, list(zip(*seeds, strict=True)), estimator, number)
        ks = sorted({k for k, _ in curves} & set(limit))
        above.plot(ks, [limit[k] for k in ks], color="black", linestyle=":", label="EM, -log p(x)")
        if shown_k in limit:
            below.axhline(limit[shown_k], color="black", linestyle=":")
        above.set_title(NAMES.get(rows[0]["dataset"], rows[0]["dataset"]))
        above.set_xlabel("K")
        below.set_xlabel(f"epoch, K = {shown_k}")
        # What matters happens near the limit: the first epochs are left out of the picture.
        ends = [float(seed[-1]["negative_elbo"]) for seed in curves.get((shown_k, "direct"), [])]
        if ends:
            below.set_ylim(min([*ends, limit.get(shown_k, min(ends))]) - 3, max(ends) + 25)
    axes[0, 0].set_ylabel("test -ELBO (nats)")
    axes[1, 0].set_ylabel("test -ELBO (nats)")
    handles = {}
    for above in axes[0]:
        handles |= dict(zip(*above.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4)
    return figure


def _draw(panel, x: list, values: list, label: str, number: int) -> None:
    """A line through the means of the values at each x, and the band of their range."""
    if not x:
        return
    panel.plot(x, [np.mean(value) for value in values], color=f"C{number}", label=label)
    low, high = [min(value) for value in values], [max(value) for value in values]
    panel.fill_between(x, low, high, color=f"C{number}", alpha=0.2)


def main():
    command_line.require_packages("matplotlib")
    tables = [plot_comparison.read(pathlib.Path(path)) for path in command_line.some("tables")]
    limits = plot_comparison.read_limits(FLAGS.limits)
    path = expanded(FLAGS.output)
    if not path.parent.is_dir() or path.suffix != ".png":
        raise ValueError(
            "Expected --output to be a .png in a folder that is there; received "
            f"{FLAGS.output!r}. Please make the folder, or give another one."
        )
    if not any(int(row["k"]) == FLAGS.shown_k for rows in tables for row in rows):
        raise ValueError(
            f"Expected --shown_k of one of the tables; received {FLAGS.shown_k}. Please give a K "
            "that is in them."
        )
    with replacing(path) as temporary:
        plot(tables, limits, FLAGS.shown_k).savefig(temporary, dpi=80)
    print(path)


if __name__ == "__main__":
    flags.DEFINE_list(
        "tables",
        [str(path) for name in NAMES if (path := RESULTS / f"figure1_{name}.csv").exists()],
        "Of compare_estimators.py.",
    )
    flags.DEFINE_string("limits", f"{RESULTS}/em_limit.jsonl", "Of benchmarks/em_limit.py.")
    flags.DEFINE_integer("shown_k", 40, "K of the curves against epochs.", lower_bound=2)
    flags.DEFINE_string("output", "figure1.png", "The picture.")
    command_line.run(main)
