"""The figures of README and docs are those of the tables in benchmarks/results."""

import collections
import csv
import json
import math
import pathlib
import re
import statistics

import pytest

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
NAMES = {"MNIST": "mnist", "Fashion-MNIST": "fashion_mnist", "Omniglot": "omniglot"}


# Tables of docs/results.md, by the cells that their headers begin with; each has a file and a test.
TABLES = {
    ("data", "K"),
    ("Omniglot, K", "EM, training"),
    ("estimator, K = 30", "beta"),
    ("300 epochs", "estimator"),
    ("estimator", "beta"),
    ("test bound, nats", "direct"),
    ("K", "10"),
    ("data", "couplings"),
    ("n", "5"),
    ("data", "method"),
    ("estimator", "K = 10"),
    ("", "n = 5"),
}


def rows_of(name):
    text = (RESULTS / name).read_text()
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in text.splitlines()]
    return list(csv.DictReader(text.splitlines()))


def tables(page):
    """The Markdown tables of a page: lists of rows, each a dict by the cells of the header."""
    found = re.findall(r"(?:^\|.*\|\n)+", (ROOT / page).read_text(), re.MULTILINE)
    for text in found:
        header, _, *body = (
            [cell.strip().strip("`") for cell in line.strip("|").split("|")]
            for line in text.splitlines()
        )
        yield [dict(zip(header, row, strict=True)) for row in body]


def table(page, *header):
    """The one table of a page whose header begins like that."""
    (found,) = (rows for rows in tables(page) if list(rows[0])[: len(header)] == list(header))
    return found


def spread(figures, digits=2):
    """Mean (greatest minus least), as the pages write it; the figure itself if it is alone."""
    mean = f"{statistics.mean(figures):.{digits}f}"
    return mean if len(figures) == 1 else f"{mean} ({max(figures) - min(figures):.{digits}f})"


def last_figures(name, column):
    """Of each run of a comparison, by (k, estimator): the figures after its last epoch."""
    runs = {}
    for row in rows_of(name):
        runs[int(row["k"]), row["estimator"], row["seed"]] = float(row[column])
    cells = collections.defaultdict(list)
    for (k, estimator, _), figure in runs.items():
        cells[k, estimator].append(figure)
    return cells


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_figure_1(page):
    limits = {(row["dataset"], row["num_categories"]): row for row in rows_of("em_limit.jsonl")}
    lines = table(page, "data", "K", "EM, -log p")
    assert len(lines) >= 4
    for line in lines:
        dataset, k = NAMES[line.pop("data")], int(line.pop("K"))
        assert line.pop("EM, -log p") == f"{limits[dataset, k]['test_nll']:.2f}"
        cells = last_figures(f"figure1_{dataset}.csv", "negative_elbo")
        for estimator, cell in line.items():
            figures = cells[k, estimator]
            assert len(figures) == 3
            # The README leaves the spread out.
            assert cell in (spread(figures), spread(figures).split(" ")[0]), (dataset, k, estimator)


def test_omniglot():
    limits = {
        row["num_categories"]: row
        for row in rows_of("em_limit.jsonl")
        if row["dataset"] == "omniglot"
    }
    cells = last_figures("figure1_omniglot.csv", "negative_elbo")
    lines = table("docs/results.md", "Omniglot, K")
    assert [int(line["Omniglot, K"]) for line in lines] == sorted(limits)
    for line in lines:
        k = int(line.pop("Omniglot, K"))
        assert float(line.pop("EM, training")) == limits[k]["train_nll"]
        assert float(line.pop("EM, test")) == limits[k]["test_nll"]
        for estimator, cell in line.items():
            assert len(cells[k, estimator]) == 3
            assert cell == spread(cells[k, estimator]), (k, estimator)


def test_codes_of_omniglot_in_use():
    of_each = collections.defaultdict(list)
    for row in rows_of("omniglot_k50_codes.csv"):
        of_each[row["estimator"]].append(float(row["code_perplexity"]))
    assert [len(figures) for figures in of_each.values()] == [3] * 5
    others = [*of_each["exact"], *of_each["gumbel_softmax"], *of_each["candidates"]]
    text = (ROOT / "docs/results.md").read_text()
    for figures in (of_each["direct"], others):
        assert f" {min(figures):.1f} to {max(figures):.1f}" in text


def test_schedules_of_omniglot():
    estimator = None
    lines = table("docs/results.md", "estimator, K = 30")
    for line, row in zip(lines, rows_of("omniglot_schedules.csv"), strict=True):
        estimator = line["estimator, K = 30"] or estimator
        assert [estimator, *list(line.values())[1:]] == list(row.values())


def test_every_table_is_held_to_a_file():
    found = [tuple(rows[0])[:2] for rows in tables("docs/results.md")]
    assert sorted(found) == sorted(TABLES)


def test_schedules():
    """The schedule that was chosen is the one of Figure 1."""
    lines = table("docs/results.md", "estimator", "beta")
    measured = last_figures("figure1_mnist.csv", "negative_elbo")
    chosen = {}
    estimator = None
    for line in lines:
        estimator = line["estimator"].strip("`") or estimator
        if line["-ELBO"].startswith("**"):
            chosen[estimator] = line["-ELBO"].strip("*")
    assert set(chosen) == {"direct", "exact", "gumbel_softmax", "straight_through"}
    for estimator, cell in chosen.items():
        assert cell == f"{measured[30, estimator][0]:.2f}", estimator


def test_couplings_and_noise():
    columns = {
        "exact -ELBO": "negative_elbo",
        "importance-weighted, 100 draws": "importance_weighted_nll",
        "exact -log p(x)": "negative_log_likelihood",
    }
    rows = rows_of("structured_plain.jsonl")
    for line, row in zip(table("docs/results.md", "data", "couplings"), rows, strict=True):
        assert NAMES[line["data"]] == row["dataset"]
        assert (line["couplings"], line["noise on"]) == (row["structure"], row["perturbation"])
        for cell, name in columns.items():
            assert line[cell] == f"{row['test'][name]:.2f}"
        authors = row["test"]["unary_kl"] + row["test"]["perturbed_reconstruction"]
        assert line["the authors' measure"] == f"{authors:.2f}"
    (no_unary, no, unary, both), elbo = (row["test"] for row in rows), "negative_elbo"
    weighted, exact = "importance_weighted_nll", "negative_log_likelihood"
    text = " ".join((ROOT / "docs/results.md").read_text().split())
    for said, figure in (
        ("lower the exact -ELBO by {:.1f} nats", no[elbo] - both[elbo]),
        ("importance-weighted bound by {:.1f}", no[weighted] - both[weighted]),
        ("a loss of {:.1f} nats", unary[elbo] - no_unary[elbo]),
        ("exact posterior: {:.1f} nats without", no[elbo] - no[exact]),
        ("without and {:.1f} with them", both[elbo] - both[exact]),
    ):
        assert said.format(figure) in text, said
    assert max(row[weighted] - row[exact] for row in (no_unary, no, unary, both)) < 0.8


def test_speed_of_an_epoch():
    ratios, ranges, of_50, products = table("docs/results.md", "K", "10")
    for row in rows_of("epoch_seconds.jsonl"):
        k = str(row["num_categories"])
        if row["steps_per_execution"] == 50:
            assert of_50.pop(k) == f"{row['ratio']:.2f}"
            assert products.pop(k) == f"{row['ratio_to_products']:.2f}"
            assert row["ratio_to_products"] < 2
            continue
        assert ratios.pop(k) == f"{row['ratio']:.2f}"
        assert ranges.pop(k) == f"{row['ratio_min']:.2f} - {row['ratio_max']:.2f}"
    assert len(ratios) == len(ranges) == 1  # What they are ratios of.
    assert of_50.pop("640") == products.pop("640") == ""
    assert len(of_50) == len(products) == 1


def test_seconds_of_workers():
    lines = table("docs/machines.md", "batch of both")
    for line, row in zip(lines, rows_of("workers_seconds.jsonl"), strict=True):
        names = "batch_size", "alone_seconds", "workers_2_seconds", "workers_2_speedup"
        assert [float(cell) for cell in line.values()] == [row[name] for name in names]


def test_speed_of_a_structured_step():
    lines = {line.pop("n"): line for line in table("docs/results.md", "n", "5")}
    for row in rows_of("structured_step.jsonl"):
        n, noise = str(row["n"]), row["perturbation"]
        # `table` strips the last backtick.
        assert lines[f"ms, `{noise}"].pop(n) == times(row)
        assert lines[f"MiB, `{noise}"].pop(n) == str(row["peak_rss_mib"])
    assert not any(lines.values())


def test_speed_of_the_argmax():
    lines = {line.pop("").strip("`"): line for line in table("docs/results.md", "", "n = 5")}
    names = {
        "enumerate": "PairwiseBinary",
        "maxflow": "PairwiseBinaryMaxFlow",
        "milp": "PairwiseBinaryMILP",
    }
    for row in rows_of("argmax_seconds.jsonl"):
        if row["n"]:
            column = "n = 5" if row["n"] == 5 else str(row["n"])
            assert lines[names[row["solver"]]].pop(column) == times(row)
    assert not any(cell for line in lines.values() for cell in line.values())


def times(row):
    """Milliseconds as the pages write them."""
    digits = 1 if row["median_ms"] < 30 else 0
    median, least, greatest = (
        f"{row[f'{name}_ms']:.{digits}f}" for name in ("median", "min", "max")
    )
    return f"{median} ({least} - {greatest})"


def test_all_estimators_on_the_digits():
    cells = last_figures("digits.csv", "negative_elbo")
    for line in table("docs/results.md", "estimator", "K = 10"):
        for k, column in ((10, "K = 10"), (2, "ten bits")):
            figures = cells.pop((k, line["estimator"]), [])
            assert line[column] == "".join(f"{figure:.2f}" for figure in figures)
    assert not cells


def test_three_hundred_epochs():
    rows = rows_of("figure1_300_epochs.csv")
    for line in table("docs/results.md", "300 epochs", "estimator"):
        of_run = [
            row
            for row in rows
            if (row["dataset"], row["estimator"]) == (NAMES[line["300 epochs"]], line["estimator"])
        ]
        assert int(of_run[-1]["epoch"]) == 300
        for epoch, cell in list(line.items())[2:]:
            (figure,) = (row["negative_elbo"] for row in of_run if row["epoch"] == epoch)
            assert cell == figure, (line, epoch)


def test_fifteen_bits():
    lines = {
        line["test bound, nats"]: line for line in table("docs/results.md", "test bound, nats")
    }
    measured = rows_of("high_dimensional_mnist.csv")
    for name, column, budget in (
        ("64 decoder evaluations", "decoder_evaluations", 64),
        ("90 CPU seconds", "cpu_seconds", 90),
    ):
        last = {
            row["estimator"]: row["bound"]
            for row in measured
            if float(row[column]) <= 1.05 * budget
        }
        assert {key: lines[name][key] for key in last} == last
    of_each = {
        line["--estimator"]: line["15 bits, 90 s"]
        for line in table("docs/estimators.md", "--estimator", "paper")
    }
    assert {key: cell for key, cell in of_each.items() if cell} == last


def test_few_labels():
    cells = collections.defaultdict(list)
    for row in rows_of("semi_supervised.csv"):
        key = (row["dataset"], row["method"], row["num_labels"])
        cells[key].append(float(row["accuracy"]))
    for line in table("docs/results.md", "data", "method"):
        dataset, method = NAMES[line.pop("data")], line.pop("method")
        for count, cell in line.items():
            figures = cells[dataset, method, count]
            expected = f"{statistics.mean(figures):.2f}"
            if len(figures) > 1:
                expected += f" ({statistics.stdev(figures):.2f})"
            assert cell == expected, (dataset, method, count)


def test_few_labels_shifted_alone():
    text = " ".join((ROOT / "docs/results.md").read_text().split())
    figures = {}
    for name in ("semi_supervised", "semi_supervised_shifts"):
        for row in rows_of(f"{name}.csv"):
            if (row["dataset"], row["num_labels"], row["seed"]) == ("mnist", "100", "1"):
                figures[name, row["method"]] = f"{float(row['accuracy']):.1f}"
    for method, said in (
        ("supervised", "shifts alone give it {} instead of {}"),
        ("direct", "`direct`, though trained longer, {} instead of {}"),
    ):
        shifted, distorted = (
            figures[name, method] for name in ("semi_supervised_shifts", "semi_supervised")
        )
        assert said.format(shifted, distorted) in text


def test_decisions():
    rows = rows_of("decisions.csv")
    lines = table("docs/decisions.md", "problem", "degree", "noise")
    assert len(lines) >= 8
    for line in lines:
        setting = line.pop("problem"), line.pop("degree"), line.pop("noise")
        of_setting = [
            row
            for row in rows
            if (row["problem"], row["degree"], f"{float(row['noise']):g}") == setting
        ]
        floor = float(of_setting[0]["floor"])
        assert line.pop("knows the mean") == f"{floor:.2f}", setting
        for method, cell in line.items():
            figures = [float(row["test_regret"]) for row in of_setting if row["method"] == method]
            assert len(figures) == 10
            expected = f"{statistics.mean(figures):.2f} ({statistics.stdev(figures):.2f})"
            assert cell.replace("*", "") == expected, (setting, method)


def test_decisions_of_other_settings():
    text = " ".join((ROOT / "docs/decisions.md").read_text().split())
    for problem, method, said in (
        ("knapsack", "direct_toward_better", "comes to {} with `--problem=knapsack --difference"),
        ("path", "relative", "degree 4 comes to {}"),
    ):
        figures = [
            float(row["test_regret"])
            for row in rows_of("decisions.csv")
            if (row["problem"], row["method"]) == (problem, method)
        ]
        assert len(figures) == 10
        shown = f"{statistics.mean(figures):.2f} ({statistics.stdev(figures):.2f})"
        assert said.format(shown) in text


def test_a_grid_of_codes():
    (line,) = table("docs/convolutional.md", "-ELBO, nats")
    measured = json.loads((RESULTS / "conv_photographs.json").read_text())
    test, codes = measured["test"], measured["codes"]
    assert line["-ELBO, nats"] == f"{test['negative_elbo']:.2f}"
    assert line["bits a dimension"] == f"{test['bits_per_dimension']:.3f}"
    assert line["KL, nats"] == f"{test['kl']:.2f}"
    assert line["codes in use"] == f"{measured['k'] - codes['dead_codes']} of {measured['k']}"
    assert line["perplexity of the codes"] == f"{codes['perplexity']:.1f}"


def test_half_precision():
    rows = rows_of("mixed_precision.csv")
    lines = table("docs/convolutional.md", "model", "likelihood")
    assert len(lines) == len(rows) == 12
    for line, row in zip(lines, rows, strict=True):
        least, greatest = row["float32_least"], row["float32_greatest"]
        assert list(line.values()) == [
            row["model"], row["likelihood"], f"{least} to {greatest}", row["mixed_float16"],
            row["mixed_bfloat16"],
        ]  # fmt: skip
    assert all(row["within_spread"] == "True" for row in rows)
    text = (ROOT / "docs/convolutional.md").read_text()
    assert f"All {2 * len(rows)} means are within the spread" in text


def test_matching():
    rows = [row for row in rows_of("matching.csv") if row["task"] == "digits"]
    for line in table("docs/decisions.md", "method", "elements wrong"):
        of_method = [row for row in rows if row["method"] == line["method"]]
        assert len(of_method) == 5
        for cell, column in (
            ("elements wrong", "test_elements_wrong"),
            ("pairs with any wrong", "test_any_wrong"),
        ):
            mean = 100 * statistics.mean(float(row[column]) for row in of_method)
            assert line[cell] == f"{mean:.2f}"
    numbers = [row for row in rows_of("matching.csv") if row["task"] == "numbers"]
    assert len(numbers) == 15
    assert all(float(row["test_any_wrong"]) == 0.0 for row in numbers)


def test_speed_of_decisions():
    printed = {
        (row["size"], row["batch"], row["direct_ms"]): row for row in rows_of("decision_step.jsonl")
    }
    lines = table("docs/decisions.md", "n", "batch", "steps of an epoch")
    assert len(lines) == len(printed)
    for line in lines:
        row = printed[int(line["n"]), int(line["batch"]), float(line["direct"])]
        assert line["spo_plus"] == f"{row['spo_plus_ms']:.2f}"
        assert line["two_stage"] == (f"{row['two_stage_ms']:.2f}" if "two_stage_ms" in row else "")
        assert line["direct / SPO+"] == f"{row['direct_over_spo_plus']:.2f}"


def test_growth_of_a_step():
    lines, printed = table("docs/estimators.md", "N", "K", "batch"), rows_of("step_growth.jsonl")
    names = ("direct", "direct/2", "local_expectation/2", "gumbel_softmax")
    for line, row in zip(lines, printed, strict=True):
        shape = [line.pop(name) for name in ("N", "K", "batch", "side")]
        assert shape == [str(row[name]) for name in ("n", "k", "batch", "side")]
        for name, cell in zip(names, line.values(), strict=True):
            expected = f"{row[f'{name}_ms']:.1f}" if f"{name}_ms" in row else ""
            if expected and name != "gumbel_softmax":
                expected += f" ({row[f'{name}_ratio']:.1f} times)"
            assert cell == expected
    # What a few flips have to stay below at N = 64.
    (many,) = (row for row in printed if row["n"] == 64)
    assert many["direct/2_ratio"] < 5.0 < many["direct_ratio"]


def test_the_published_setting_of_reinmax():
    runs, of_reinmax = collections.defaultdict(list), {}
    for row in rows_of("reinmax_8x4.csv"):
        settings = row["estimator"], row["arguments"], row["learning_rate"], row["seed"]
        runs[settings].append(row)
    for line in table("docs/estimators.md", "--estimator", "its arguments"):
        *settings, training, test, seconds = line.values()
        rows = runs.pop(tuple(settings))
        assert [int(row["finished_epochs"]) for row in rows] == [*range(1, 161)]
        assert training == f"{float(rows[-1]['loss']):.2f}"
        assert test == f"{float(rows[-1]['val_loss']):.2f}"
        # Of seconds with one decimal.
        assert int(seconds.replace(",", "")) == pytest.approx(
            sum(float(row["cpu_seconds"]) for row in rows), abs=10
        )
        if settings[0] == "reinmax":
            of_reinmax[int(settings[-1])] = rows
    assert not runs
    training, test = table("docs/estimators.md", "reinmax` (seed 0), finished epochs")
    for epoch in list(training)[1:]:
        row = of_reinmax[0][int(epoch) - 1]
        assert training[epoch] == f"{float(row['loss']):.2f}"
        assert test[epoch] == f"{float(row['val_loss']):.2f}"
    # The paper's figures, from its authors' raw files.
    text = " ".join((ROOT / "docs/estimators.md").read_text().split())
    beyond = [
        (float(rows[-1]["loss"]) - 124.94, float(rows[-1]["val_loss"]) - 126.63)
        for _, rows in sorted(of_reinmax.items())
    ]
    (lower, higher), second = beyond
    assert f"is {-lower:.2f} nats lower on the training images" in text
    assert f"and {higher:.2f} higher on the test images with seed 0" in text
    assert "and {:.2f} and {:.2f} higher with seed 1".format(*second) in text
    assert max(abs(nats) for pair in beyond for nats in pair) < 1.5
    # What beats it, and the paper's, is named.
    last_of = {
        (row["estimator"], row["arguments"], row["seed"]): row
        for row in rows_of("reinmax_8x4.csv")
        if row["finished_epochs"] == "160"
    }
    relaxed = [
        float(last_of.pop(("gumbel_softmax", "temperature=0.5", seed))["val_loss"])
        for seed in ("0", "1")
    ]
    assert f"`gumbel_softmax`, {max(relaxed) - min(relaxed):.2f} nats on the test" in text
    training = {name: 124.94 - float(row["loss"]) for name, row in last_of.items()}
    below = {(name, seed): f"{nats:.2f}" for (name, _, seed), nats in training.items() if nats > 0}
    of_both = {("candidates", "0"), ("candidates", "1")}
    assert below.keys() == {*of_both, ("local_expectation", "0"), ("reinmax", "0")}
    by = " and ".join(below["candidates", seed] for seed in "01")
    assert f"without bias, by {by} nats" in text
    assert f"29 decodes, by {below['local_expectation', '0']}, and" in text
    tests = {name: float(row["val_loss"]) for name, row in last_of.items()}
    ordered = [name for name, *_ in sorted(tests, key=tests.get)]
    assert ordered[:3] == ["reinmax", "gumbel_rao", "reinmax"]
    assert ordered[3:6] == ["candidates", "candidates", "local_expectation"]
    assert min(tests.values()) > 126.63


SEVERAL = ("arms", "double_cv", "score_function")
EVERY_FLIP = ("local_expectation", "")


def test_gradients_on_8x4():
    rows = {
        (row["estimator"], row["setting"]): row
        for row in rows_of("gradient_quality_8x4.csv")
        if row["model"] == "trained"
    }
    columns = {
        "decodes": "decoder_evaluations",
        "bias": "bias",
        "deviation": "deviation",
        "of one decode": "deviation_an_evaluation",
        "to the mean": "deviation_to_mean",
        "cosine": "cosine",
    }
    for line in table("docs/estimators.md", "estimator", "setting"):
        row = rows[line["estimator"], line["setting"]]
        assert {cell: line[cell] for cell in columns} == {
            cell: row[name] for cell, name in columns.items()
        }
    # What the text says of them.
    deviation = {key: float(row["deviation_an_evaluation"]) for key, row in rows.items()}
    for count in ("2", "4", "16"):
        others = [deviation[name, f"num_samples={count}"] for name in SEVERAL]
        assert deviation["candidates", f"num_candidates={count}"] < min(others)
    assert min(deviation["candidates", "num_candidates=16"], *others) > deviation[EVERY_FLIP]
    bias = {
        key: float(row["bias"])
        for key, row in rows.items()
        if row["decoder_evaluations"] == "1" and key[0] != "gumbel_softmax"
    }
    least = min(bias, key=bias.get)
    assert (least, f"{bias[least]:.2f}") == (("gumbel_rao", "temperature=0.1"), "0.19")
    assert f"{bias['reinmax', 'temperature=1']:.2f}" == "0.26"
    cosines = [
        float(line["cosine"]) for line in table("docs/estimators.md", "estimator", "setting")
    ]
    assert sorted(cosines)[-3:] == [0.73, 0.755, 0.94]


def test_thirty_variables_after_thirty_epochs():
    rows = {(row["estimator"], row["finished_epochs"]): row for row in rows_of("reinmax_10x30.csv")}
    lines = table("docs/estimators.md", "--estimator`, 10x30")
    assert 15 * len(lines) == len(rows)
    for line in lines:
        estimator, what, *figures = line.values()
        column = {"training": "loss", "test": "val_loss"}[what]
        for epoch, figure in zip(("10", "20", "30"), figures, strict=True):
            assert figure == f"{float(rows[estimator, epoch][column]):.2f}"


def test_two_hundred_bits():
    last = {}
    for row in rows_of("bits_200_mnist.csv"):
        if float(row["cpu_seconds"]) <= 1.05 * 900:
            last[row["network"], row["estimator"]] = row
    lines = table("docs/estimators.md", "200 bits, network")
    assert len(lines) == len(last)
    for line in lines:
        row = last[line["200 bits, network"], line["--estimator"]]
        shown = [line[name] for name in ("epochs", "decodes", "test bound", "-ELBO")]
        names = ("epoch", "decoder_evaluations", "bound", "negative_elbo")
        assert shown == [row[name] for name in names]


def test_the_polynomial_toy():
    rows = {(row["estimator"], row["p"]): row for row in rows_of("polynomial_toy.csv")}
    assert {row["steps"] for row in rows.values()} == {"8000"}
    lines = table("docs/estimators.md", "--estimator", "p = 1.5")
    assert 3 * len(lines) == len(rows)
    for line in lines:
        for p in ("1.5", "2.0", "3.0"):
            row = rows[line["--estimator"], p]
            assert line[f"p = {float(p):g}"] == f"{float(row['expected_loss']):.5f}"
            assert line["evaluations"] == row["evaluations"]
            assert float(row["expected_loss"]) > 0.45 ** float(p)  # The optimum, all bits 0.


def test_noise_averaged_out_over_thirty_epochs():
    columns = {
        "-ELBO, exact": "negative_elbo",
        "-log p(x), exact": "negative_log_likelihood",
        "importance-weighted": "importance_weighted_nll",
        "KL": "kl",
        "entropy of q": "entropy",
    }
    lines = table("docs/candidates.md", "30 epochs")
    cells = collections.defaultdict(list)
    for row in rows_of("structured_averaged.jsonl"):
        cells[row["dataset"], row["structure"]].append(row["test"])
    for line, ((dataset, structure), runs) in zip(lines, cells.items(), strict=True):
        assert (NAMES[line["30 epochs"]], line["couplings"]) == (dataset, structure)
        assert int(line["seeds"]) == len(runs)
        for cell, name in columns.items():
            assert line[cell] == spread([run[name] for run in runs]), cell
    gains = [
        statistics.mean(run[name] for run in cells[dataset, "none"])
        - statistics.mean(run[name] for run in cells[dataset, "pairwise"])
        for name in ("negative_elbo", "negative_log_likelihood")
        for dataset in ("mnist", "fashion_mnist")
    ]
    said = (
        "worth {:.1f} nats of the -ELBO on MNIST and {:.1f} on Fashion-MNIST, and {:.1f} and {:.1f}"
    )
    assert said.format(*gains) in (ROOT / "docs/candidates.md").read_text()


def test_chains_and_subsets():
    columns = ("negative_elbo", "importance_weighted_nll", "reconstruction", "kl", "entropy")
    rows = rows_of("posterior_vae.jsonl")
    for line, row in zip(
        table("docs/candidates.md", "posterior", "configurations"), rows, strict=True
    ):
        n, k = row["num_variables"], row.get("k")
        count = k**n if k else math.comb(n, row["subset"])
        assert line["configurations"] == f"{count:,}"
        assert list(line.values())[2:] == [f"{row['test'][name]:.2f}" for name in columns]
        # KL to the uniform distribution.
        assert row["test"]["kl"] + row["test"]["entropy"] == pytest.approx(
            math.log(count), abs=0.02
        )
    text = (ROOT / "docs/candidates.md").read_text()
    chain, independent, subset, bits = (row["test"] for row in rows)
    for said, figure in (
        ("worth {:.1f} nats", independent["negative_elbo"] - chain["negative_elbo"]),
        ("cannot say what {:.1f} nats", math.log(2**20)),
        ("{:.1f} nats behind in the -ELBO", subset["negative_elbo"] - bits["negative_elbo"]),
        ("exact -log p(x) is {:.2f}", subset["negative_log_likelihood"]),
    ):
        assert said.format(figure) in text


def test_the_readme_on_coupled_bits():
    averaged = {
        line["couplings"]: float(line["-ELBO, exact"].split(" ")[0])
        for line in table("docs/candidates.md", "30 epochs", "couplings")
        if line["30 epochs"] == "Fashion-MNIST"
    }
    said = (
        f"Fashion-MNIST {averaged['pairwise']:.1f} nats with couplings, {averaged['none']:.1f} "
        "without"
    )
    assert said in " ".join((ROOT / "README.md").read_text().split())


def test_schedules_of_averaged_noise():
    rows = rows_of("structured_schedules.jsonl")
    for line, row in zip(table("docs/candidates.md", "epochs", "epsilon"), rows, strict=True):
        shown = [float(line[name]) for name in list(line)[3:]]
        names = (
            "negative_elbo", "negative_log_likelihood", "importance_weighted_nll", "entropy",
        )  # fmt: skip
        assert shown == [row["validation_negative_elbo"], *(row["test"][name] for name in names)]
        assert int(line["epochs"]) == row["epochs"]
        assert line["epsilon"].startswith(
            f"{row['epsilon']:g} for {row['warmup_epochs']} epochs, then {row['epsilon_final']:g}"
            if row["epsilon_schedule"] == "two_phase"
            else f"{row['epsilon_final']:g} throughout"
        )


def test_gradients_of_candidates_at_eight_bits():
    rows = {
        (row["estimator"], row["setting"]): row
        for row in rows_of("gradient_quality_binary.csv")
        if row["model"] == "trained"
    }
    text = (ROOT / "docs/candidates.md").read_text()
    for key, figures in (
        (("candidates", "num_candidates=8"), ("deviation",)),
        (("direct toward_better", "epsilon=0.3"), ("deviation", "bias")),
        (("direct central", "epsilon=0.1"), ("deviation", "bias")),
        (("direct toward_better", "epsilon=3"), ("bias",)),
    ):
        for figure in figures:
            assert f"{float(rows[key][figure]):.2f}" in text, (key, figure)


def test_bias_with_two_steps_combined():
    rows = {row["epsilon"]: row for row in rows_of("epsilon_bias.csv")}
    text = " ".join((ROOT / "docs/epsilon.md").read_text().split())
    for epsilon, said in (
        ("0.1", "a bias of {:.0f} % becomes 0.3 %"),
        ("0.2", "one of {:.0f} % becomes 3 %"),
    ):
        assert said.format(100 * float(rows[epsilon]["bias"])) in text
    assert f"{100 * float(rows['0.1']['richardson_bias']):.1f}" == "0.3"
    assert f"{100 * float(rows['0.2']['richardson_bias']):.0f}" == "3"
