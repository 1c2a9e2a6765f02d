"""The table as its users see it: a grid in one process, cut and gone on with."""

import csv
import signal
import statistics

import programs
import pytest
from programs import ROOT, run

PROGRAM = "experiments/semi_supervised_table.py"
GRID = (
    "--label_counts=50", "--seeds=1,2", "--epochs=2", "--supervised_epochs=1",
    "--hidden_units=16", "--gaussian_dim=3", "--verbose=0",
)  # fmt: skip

# Dies when the third cell is about to save its model.
KILLER = """
import os, signal
import keras

save, saved = keras.Model.save, []

def save_two(model, path):
    saved.append(path)
    if len(saved) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    save(model, path)

keras.Model.save = save_two
"""


def rows_of(folder):
    with (folder / "semi_supervised.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_table_cut_and_gone_on_with(tmp_path):
    folder = tmp_path / "table"
    flags = (*GRID, f"--output_dir={folder}")
    code, _, err = run(PROGRAM, *flags, prelude=KILLER)
    assert code == -signal.SIGKILL, err
    kept = rows_of(folder)
    assert len(kept) == 2
    lines = programs.train(PROGRAM, *flags)
    rows = rows_of(folder)
    assert rows[:2] == kept
    assert [(row["method"], row["seed"], row["epochs"]) for row in rows] == [
        ("direct", "1", "2"), ("direct", "2", "2"), ("supervised", "1", "1"),
        ("supervised", "2", "1"), ("gumbel_softmax", "1", "2"),
    ]  # fmt: skip
    direct, supervised, relaxed = lines
    figures = [float(row["accuracy"]) for row in rows[:2]]
    assert direct["accuracy"] == pytest.approx(statistics.mean(figures), abs=0.01)
    assert direct["deviation"] == pytest.approx(statistics.stdev(figures), abs=0.01)
    assert (relaxed["seeds"], relaxed["deviation"]) == (1, None)
    lines = (folder / "semi_supervised.md").read_text().splitlines()
    assert lines[0] == "| data | method | 50 |"
    assert lines[3] == (
        f"| digits | `supervised` | {supervised['accuracy']:.2f} ({supervised['deviation']:.2f}) |"
    )


def test_the_flagfiles_of_single_runs_are_cells_of_the_table():
    def given(name):
        text = (ROOT / f"flags/semi_supervised_{name}.flags").read_text()
        return {line for line in text.splitlines() if line.startswith("--")}

    of_the_grid = (
        "--datasets",
        "--label_counts",
        "--methods",
        "--seeds",
        "--once",
        "--supervised_",
    )
    shared = {line for line in given("table") if not line.startswith(of_the_grid)}
    for dataset in ("mnist", "fashion_mnist"):
        assert given(dataset) == shared | {f"--dataset={dataset}", "--num_labels=100"}
