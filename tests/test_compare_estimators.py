"""The comparison as its users see it: a grid in one process, cut and gone on with, a table."""

import csv
import json
import signal
import textwrap

import figure1
import numpy as np
import plot_comparison
import programs
import pytest
import tensorflow as tf
from evaluations import decoder_evaluations
from programs import run

from tf_direct_opt import estimators

PROGRAM = "experiments/compare_estimators.py"
GRID = (
    "--ks=3", "--estimators=direct,gumbel_softmax", "--seeds=1,2", "--epochs=3",
    "--hidden_units=16", "--verbose=0",
)  # fmt: skip


def rows_of(folder):
    with (folder / "comparison.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole comparison, with the EM limit in its plots, and the JSON line it ended with."""
    folder = tmp_path_factory.mktemp("comparison")
    limits = folder / "limits.jsonl"
    limits.write_text('{"dataset": "digits", "num_categories": 3, "test_nll": 24.9}\n')
    flags = (*GRID, f"--limits={limits}", f"--output_dir={folder}/a")
    return folder / "a", programs.train(PROGRAM, *flags)


def test_table_summary_and_picture(finished):
    folder, summary = finished
    rows = rows_of(folder)
    cells = [(row["estimator"], row["seed"], row["epoch"]) for row in rows]
    assert cells == [
        (estimator, seed, epoch)
        for estimator in ("direct", "gumbel_softmax")
        for seed in "12"
        for epoch in "123"
    ]
    assert {row["decoder_evaluations"] for row in rows if row["epoch"] == "3"} == {"0.09", "3"}
    assert all(float(row["cpu_seconds"]) > 0 for row in rows)
    for line in summary:
        last = [
            float(row["negative_elbo"])
            for row in rows
            if row["estimator"] == line["estimator"] and row["epoch"] == "3"
        ]
        assert line["seeds"] == 2
        assert line["negative_elbo"] == pytest.approx(np.mean(last), abs=0.01)
        assert line["negative_elbo_range"] == pytest.approx(abs(last[0] - last[1]), abs=0.01)
        # What a run says of its test images is what the comparison says of it.
        directory = folder / f"digits-k3-{line['estimator']}-s1"
        test = json.loads((directory / "metrics.json").read_text())["test"]
        assert test["negative_elbo"] == pytest.approx(last[0], abs=0.01)
    picture = tf.io.decode_png((folder / "comparison_digits.png").read_bytes()).numpy()
    assert picture.std() > 10


def test_plot_names_the_schedules_and_different_beta(finished):
    rows = rows_of(finished[0])
    figure = plot_comparison.plot(rows, {"3": 24.9}, {"epoch": None, "cpu_seconds": 2.0})
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels[0] == "direct, beta 0 to 1, epsilon 1 to 0.1"
    assert labels[1].startswith("gumbel_softmax, beta ")
    assert labels[2] == "EM limit"
    assert len(figure.axes) == 2
    assert figure.axes[1].get_xlim() == (0.0, 2.0)
    assert "different beta" not in figure.get_suptitle()
    for row in rows:
        if row["estimator"] == "direct":
            row["kl_weight"] = "0"
    title = plot_comparison.plot(rows, {}, {"epoch": None}).get_suptitle()
    assert title.endswith("(trained with different beta: 0, 1)")


def test_a_seed_that_was_cut_has_no_curve(finished, capsys):
    rows = rows_of(finished[0])
    whole = plot_comparison.curves_of(rows)
    cut = [
        row for row in rows if (row["estimator"], row["seed"], row["epoch"]) != ("direct", "2", "3")
    ]
    curves = plot_comparison.curves_of(cut)
    assert {key: len(seeds) for key, seeds in whole.items()} == dict.fromkeys(whole, 2)
    assert len(curves[3, "direct"]) == 1
    assert "no curve of direct, K = 3, seed 2" in capsys.readouterr().err
    plot_comparison.plot(cut, {}, {"epoch": None})


def test_figure_1_has_the_last_loss_against_k_and_the_curves_of_one(finished, tmp_path):
    rows = rows_of(finished[0])
    limits = [{"dataset": "digits", "num_categories": 3, "test_nll": 24.9}]
    above, below = figure1.plot([rows], limits, shown_k=3).axes
    lines = {line.get_label(): line.get_xydata() for line in above.lines}
    assert list(lines) == ["direct", "gumbel_softmax", "EM, -log p(x)"]
    np.testing.assert_allclose(lines["EM, -log p(x)"], [[3, 24.9]])
    curves = {line.get_color(): line.get_xydata() for line in below.lines}
    for number, estimator in enumerate(("direct", "gumbel_softmax")):
        losses = np.array(
            [
                [float(row["negative_elbo"]) for row in rows if row["epoch"] == epoch]
                for epoch in "123"
            ]
        )[:, 2 * number : 2 * number + 2]
        np.testing.assert_allclose(lines[estimator], [[3, losses[-1].mean()]])
        np.testing.assert_allclose(curves[f"C{number}"][:, 1], losses.mean(axis=1))
    table, picture = finished[0] / "comparison.csv", tmp_path / "a.png"
    code, out, err = programs.run(
        "experiments/figure1.py", f"--tables={table}", "--shown_k=3", f"--output={picture}"
    )
    assert (code, out) == (0, f"{picture}\n"), err
    assert tf.io.decode_png(picture.read_bytes()).numpy().std() > 10


@pytest.mark.slow
def test_cut_and_gone_on_with_it_ends_with_the_same_table(finished, tmp_path):
    whole, _ = finished
    folder = tmp_path / "b"
    part = (*GRID, "--estimators=direct", f"--output_dir={folder}")
    program = programs.Program(PROGRAM, part)
    programs.wait_until((folder / "digits-k3-direct-s2/history.csv").exists, program)
    program.kill()
    assert program.wait()[0] == -signal.SIGKILL
    first = (folder / "digits-k3-direct-s1" / "metrics.json").stat().st_mtime_ns
    programs.train(PROGRAM, *part)
    assert (folder / "digits-k3-direct-s1" / "metrics.json").stat().st_mtime_ns == first
    expected = [row for row in rows_of(whole) if row["estimator"] == "direct"]
    for row, other in zip(expected, rows_of(folder), strict=True):
        del row["cpu_seconds"], other["cpu_seconds"]
        assert row == other


def assert_same_table(folder, other):
    """But for the seconds, which no run has in common with another."""
    tables = [rows_of(each) for each in (folder, other)]
    for row in (*tables[0], *tables[1]):
        assert float(row.pop("cpu_seconds")) > 0
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_shards_fill_one_table(finished, tmp_path):
    whole, summary = finished
    flags = (*GRID, "--verbose=2", f"--output_dir={tmp_path / 'a'}")
    said = []
    for program in [programs.Program(PROGRAM, (*flags, f"--shard={i}/3")) for i in (1, 2)]:
        code, out, err = program.wait()
        assert code == 0, err
        said += out.splitlines()
    # Seeds vary last: the third of the four runs.
    assert "1 of 4 runs are left: digits-k3-gumbel_softmax-s1." in said
    last = programs.Program(PROGRAM, (*flags, "--shard=3/3"))
    programs.wait_until((tmp_path / "a/.shard-3-of-3").exists, last)
    code, _, err = run(PROGRAM, *flags, "--shard=3/3")  # Nobody trains a run twice.
    assert code == 1
    assert "Expected a folder that no other process is filling; received" in err
    code, out, err = last.wait()
    assert code == 0, err
    assert json.loads(out.splitlines()[-1]) == summary
    assert_same_table(whole, tmp_path / "a")


@pytest.mark.slow
def test_processes_fill_one_table(finished, tmp_path):
    whole, summary = finished
    flags = (*GRID, "--verbose=2", f"--output_dir={tmp_path / 'b'}")
    code, out, err = run(PROGRAM, *flags, "--processes=2")
    assert code == 0, err
    assert out.startswith("4 of 4 runs are left: digits-k3-direct-s1, ")
    assert json.loads(out.splitlines()[-1]) == summary
    assert_same_table(whole, tmp_path / "b")
    # One that fails is named, with what it said.
    (tmp_path / "b/digits-k3-direct-s2/metrics.json").unlink()
    (tmp_path / "b/digits-k3-direct-s2/history.csv").unlink()
    code, _, err = run(PROGRAM, *flags, "--processes=2")
    assert code == 1
    assert "process-2.log, with: Expected the rows of 3 finished epochs" in err


@pytest.mark.slow
def test_budgets(tmp_path):
    summary = programs.train(
        PROGRAM, "--ks=2", "--num_variables=3", "--estimators=direct,disarm", "--seeds=1",
        "--hidden_units=16", "--verbose=0", "--learning_rate_schedule=constant",
        "--decoder_evaluations=48", "--cpu_seconds=2", f"--output_dir={tmp_path}",
    )  # fmt: skip
    rows = rows_of(tmp_path)
    measured = json.loads((tmp_path / "cpu_seconds.json").read_text())
    for estimator, evaluations in (("direct", 4), ("disarm", 2)):
        of = [row for row in rows if row["estimator"] == estimator]
        key = f"digits-k2-{estimator} --hidden_units=16 --learning_rate_schedule=constant"
        epochs = 48 / evaluations, 2 / measured[f"{key} --num_variables=3"]
        every = max(round(min(epochs) / 6), 1)
        assert [int(row["epoch"]) for row in of] == [every * (i + 1) for i in range(len(of))]
        assert max(epochs) <= len(of) * every < max(epochs) + every
        lines = [line for line in summary if line["estimator"] == estimator]
        assert [line.get("decoder_evaluations") for line in lines] == [48, None]
        within = [row for row in of if float(row["decoder_evaluations"]) <= 48 * 1.05]
        assert lines[0]["bound"] == float(within[-1]["bound"])


# An estimator of one's own is one file ...
TOY = """
    import keras

    from tf_direct_opt.estimators.exact import Exact


    @keras.saving.register_keras_serializable("toy")
    class Toy(Exact):
        def estimate(self, posterior, loss_fn, step):
            return super().estimate(posterior, loss_fn, step)
"""
# ... and one line in the registry, and then trains in every program under its name.
REGISTER = """
import sys
sys.path.insert(0, {folder!r})
from toy import Toy
from tf_direct_opt import estimators
estimators._REGISTRY["toy"] = Toy
"""


@pytest.mark.slow
def test_a_new_estimator_is_one_file_and_one_line(tmp_path):
    (tmp_path / "toy.py").write_text(textwrap.dedent(TOY))
    programs.train(
        PROGRAM, "--ks=3", "--estimators=exact,toy", "--seeds=1", "--epochs=2",
        "--hidden_units=16", "--verbose=0", f"--output_dir={tmp_path / 'out'}",
        prelude=REGISTER.format(folder=str(tmp_path)),
    )  # fmt: skip
    figures = {}
    for row in rows_of(tmp_path / "out"):
        figures.setdefault(row["estimator"], []).append(row["negative_elbo"])
    assert len(figures["toy"]) == 2
    assert figures["toy"] == figures["exact"]


def test_decoder_evaluations_are_those_of_the_docstrings():
    expected = {
        "direct": 16, "local_expectation": 16, "imle": 1, "score_function": 4, "disarm": 2,
        "rebar": 2, "relax": 2, "gumbel_softmax": 1, "straight_through": 1, "reinmax": 1,
        "gumbel_rao": 1, "gst": 1, "arms": 4, "double_cv": 2, "adaptive_imle": 1,
        "candidates": 8,
    }  # fmt: skip
    for name, count in expected.items():
        assert decoder_evaluations(estimators.get(name), 15, 2) == count, name
    assert {*expected, "exact", "flips"} == set(estimators.names())
    for name in ("direct", "exact", "local_expectation"):
        assert decoder_evaluations(estimators.get(name), 1, 20, batch_size=100) == 0.2


def test_plot_program(finished, tmp_path):
    folder, _ = finished
    code, out, err = run(
        "experiments/plot_comparison.py", f"--table={folder / 'comparison.csv'}",
        f"--output_dir={tmp_path}", "--across=epoch",
    )  # fmt: skip
    assert code == 0, err
    assert out.strip() == str(tmp_path / "comparison_digits.png")
    assert (tmp_path / "comparison_digits.png").exists()


def test_a_picture_for_each_number_of_variables(tmp_path):
    names = dict.fromkeys(plot_comparison.COLUMNS, "1")
    rows = [
        {**names, "dataset": dataset, "num_variables": number, "k": "3", "estimator": "direct"}
        for dataset, number in (("digits", "1"), ("digits", "3"), ("mnist", "3"))
    ]
    paths = plot_comparison.draw_all(rows, [], {"epoch": None}, tmp_path)
    assert paths == [
        tmp_path / f"comparison_{name}.png" for name in ("digits_n1", "digits_n3", "mnist")
    ]
    assert all(path.exists() for path in paths)
