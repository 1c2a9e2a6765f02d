"""Plots the curves of finished or running experiments.

    python examples/plot_curves.py --runs=runs/a,runs/b --output=curves.png

Each run gives its -ELBO on the validation images, with beta = 1 throughout, against epochs and
against seconds of training; the legend names what was trained and its schedules.
"""

import csv
import pathlib

import matplotlib
from absl import app, flags

from tf_direct_opt.files import replacing

matplotlib.use("Agg")  # No display is needed.

import matplotlib.pyplot as plt

_RUNS = flags.DEFINE_list("runs", None, "Output folders of train_vae.py.", required=True)
_OUTPUT = flags.DEFINE_string("output", "curves.png", "The picture.")


def read_run(directory: pathlib.Path) -> dict[str, list[float]]:
    """The columns of a run's history.csv."""
    path = directory / "history.csv"
    if not path.exists():
        raise ValueError(f"Expected the output folder of a run; {path} does not exist.")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def label_of(directory: pathlib.Path, columns: dict[str, list[float]]) -> str:
    """Data set, estimator, K and seed of a run, and the schedules that make it comparable."""
    lines = (directory / "flags.txt").read_text().splitlines()
    given = dict(line.lstrip("-").split("=", 1) for line in lines if "=" in line)
    label = f"{given['dataset']} {given['estimator']} K={given['k']} seed={given['seed']}"
    for name in ("kl_weight", "epsilon", "temperature"):
        if name in columns:
            label += f", {name} {columns[name][0]:.3g} to {columns[name][-1]:.3g}"
    return label


def plot(directories: list[pathlib.Path], output: pathlib.Path) -> None:
    """Draws the curves of the runs into one picture of two panels."""
    figure, (by_epoch, by_second) = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for directory in directories:
        columns = read_run(directory)
        seconds = [sum(columns["seconds"][: i + 1]) for i in range(len(columns["seconds"]))]
        epochs = [epoch + 1 for epoch in columns["epoch"]]
        by_epoch.plot(epochs, columns["val_loss"], label=label_of(directory, columns))
        by_second.plot(seconds, columns["val_loss"])
    by_epoch.set(xlabel="epoch", ylabel="validation -ELBO (nats)")
    by_second.set(xlabel="seconds of training")
    by_epoch.legend(fontsize="xx-small")
    figure.tight_layout()
    with replacing(output) as temporary:
        figure.savefig(temporary, dpi=100)
    plt.close(figure)


def main(argv):
    del argv
    plot([pathlib.Path(run) for run in _RUNS.value], pathlib.Path(_OUTPUT.value))


if __name__ == "__main__":
    app.run(main)
