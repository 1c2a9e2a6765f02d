"""The experiments: what they refuse, what their tables say of how they were made, what ends them.

Programs define flags of the same names: each is imported by a script in a process of its own.
"""

import csv
import json
import math
import signal
import textwrap
import time

import programs
import pytest
from programs import ROOT

from tf_direct_opt import files
from tf_direct_opt.runs import presets

HEADER = f"""
import json, pathlib, sys
sys.path[:0] = [{str(ROOT / "experiments")!r}, {str(ROOT / "examples")!r}]

def said(function, *arguments):
    try:
        function(*arguments)
    except ValueError as error:
        return str(error)
"""


@pytest.fixture
def answer(tmp_path):
    """The JSON that a script ends with, which may import the programs."""

    def of(script, *arguments):
        path = tmp_path / "script.py"
        path.write_text(HEADER + textwrap.dedent(script))
        return programs.train(path, *arguments)

    return of


def test_what_the_flags_of_a_schedule_describe(answer):
    found = answer("""
        import train_vae
        from absl import flags
        from absl.testing import flagsaver
        from tf_direct_opt.runs import vae_flags

        flags.FLAGS(["a"])
        given = dict(
            epsilon=0.8, epsilon_final=0.1, epsilon_rate=0.01, kl_weight_first=8.0, kl_weight=0.5,
            warmup_epochs=2,
        )
        answers = {}
        for make, flag, names in (
            (vae_flags.epsilon, "epsilon_schedule", ("constant", "two_phase", "exponential")),
            (vae_flags.kl_weight, "kl_schedule", ("constant", "two_phase", "linear", "annealed")),
        ):
            for name in names:
                with flagsaver.flagsaver(**given, **{flag: name}):
                    schedule = make(10)
                steps = (0, 10, 19, 20, 500)
                values = [float(schedule(s)) if callable(schedule) else schedule for s in steps]
                answers[f"{flag}={name}"] = values
        print(json.dumps(answers))
    """)
    expected = {
        "epsilon_schedule=constant": [0.1] * 5,
        "epsilon_schedule=two_phase": [0.8, 0.8, 0.8, 0.1, 0.1],
        "epsilon_schedule=exponential": [
            0.8, 0.8 * math.exp(-0.1), 0.8 * math.exp(-0.19), 0.8 * math.exp(-0.2), 0.1,
        ],
        "kl_schedule=constant": [0.5] * 5,
        "kl_schedule=two_phase": [0.0, 0.0, 0.0, 0.5, 0.5],
        "kl_schedule=linear": [0.0, 0.25, 0.475, 0.5, 0.5],
        # From 8 to 0.5 is four halvings, in 20 steps.
        "kl_schedule=annealed": [8.0, 2.0, 8.0 * 2 ** (-4 * 19 / 20), 0.5, 0.5],
    }  # fmt: skip
    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert values == pytest.approx(expected[name], rel=1e-5), name


def test_presets_are_those_of_the_results():
    annealed = {"kl_schedule": "annealed", "kl_weight_first": 10.0, "warmup_epochs": 15}
    soft, hard = ((3e-4, 0.1), (1e-4, 0.3))
    for name, (rate, final) in (("gumbel_softmax", soft), ("straight_through", hard)):
        schedule = {"temperature_rate": rate, "temperature_final": final}
        assert presets.of(name, alone=True, epochs=30) == {**annealed, **schedule}
    for name in ("exact", "score_function"):
        assert presets.of(name, alone=True, epochs=30) == annealed
    together = {"kl_schedule": "constant", "warmup_epochs": 0}
    assert presets.of("reinmax", alone=False, epochs=30) == {**together, "temperature": 1.3}
    small = {"epsilon_schedule": "constant", "epsilon_final": 0.1}
    assert presets.of("direct", alone=False, epochs=30) == {**together, **small}


# What they refuse.

OUT = "--output_dir=new"
REFUSED = {
    "experiments/semi_supervised_table.py": [
        (f"{OUT} --supervised", "Expected --methods here; received --supervised."),
        (f"{OUT} --nosupervised", "Expected --methods here; received --supervised."),
        (f"{OUT} --estimator=exact", "Expected --methods here; received --estimator."),
        (f"{OUT} --label_loss=direct", "Expected --methods here; received --label_loss."),
    ],
    "experiments/compare_estimators.py": [
        (f"{OUT} --watch=valid", "Expected no --watch here, where the test images are"),
        ("--output_dir=~nobody-here/x", "whose home directory cannot be found"),
    ],
    "experiments/gradient_quality.py": [
        (
            f"{OUT} --estimators=direct,disarm --k=3",
            "that --k=3 and --num_variables=1 allow; received disarm. Please leave",
        ),
        (
            f"{OUT} --estimators=exact,relax,direct --k=3 --num_variables=2",
            "--num_variables=2 allow; received exact, relax.",
        ),
        (f"{OUT} --estimators=", "Expected at least one entry in --estimators"),
    ],
    "benchmarks/mixed_precision.py": [
        ("--output=/nowhere/a.csv", "Expected --output to be a file in a folder that can be"),
        ("--output=/", "Expected --output to be a file in a folder that can be written"),
    ],
}


@pytest.mark.parametrize("program", REFUSED)
def test_flags_without_effect_and_mistakes_are_refused(program):
    lines = [line.split() for line, _ in REFUSED[program]]
    answers = programs.refusals(program, lines)
    for (line, message), (code, out, err, left) in zip(REFUSED[program], answers, strict=True):
        assert (code, out, left) == (1, "", []), (line, err)
        assert err.startswith("error: Expected"), err
        assert message in err
        assert err.count("\n") == 1


@pytest.mark.parametrize("program", ["compare_estimators", "semi_supervised_table"])
def test_the_flagfiles_of_the_grids_are_not_refused(answer, program):
    paths = [
        str(path)
        for path in sorted((ROOT / "flags").glob("*.flags"))
        if "--datasets=" in (text := path.read_text())
        and ("--label_counts=" in text) == (program == "semi_supervised_table")
    ]
    found = answer(f"""
        import {program} as program
        from absl import flags
        from absl.testing import flagsaver
        counts = []
        for path in {paths}:
            with flagsaver.flagsaver():
                flags.FLAGS(["program", "--flagfile=" + path])
                counts.append(len(program.cells()))
        print(json.dumps(counts))
    """)
    assert len(found) == len(paths) >= 1
    assert min(found) > 1


# What their tables say.


def test_the_toy_is_run_anew_under_other_flags_and_says_which(answer, tmp_path):
    said = answer(f"""
        import csv
        import polynomial_toy as toy
        from absl import flags
        from absl.testing import flagsaver
        trained = []

        def train(name):
            trained.append([name, flags.FLAGS.steps, flags.FLAGS.epsilon])
            return [{{**toy.settings_of(name), **dict.fromkeys(toy.FIGURES, 0), "p": p}}
                    for p in toy.POWERS]

        toy.train = train
        path = pathlib.Path({str(tmp_path)!r}, "polynomial_toy.csv")

        def main(*more):
            with flagsaver.flagsaver():
                flags.FLAGS(["toy", "--output_dir={tmp_path}", "--estimators=direct,arms", *more])
                toy.main()

        for more in ((), (), ("--epsilon=3",), ("--steps=200",)):
            main(*more)
        whole = path.read_text()
        refusals = []
        for text in (whole[:-9], whole[: -len(whole.splitlines()[-1]) - 2], "a,b\\n1,2\\n", ""):
            path.write_text(text)
            refusals.append(said(main))
        path.write_text(whole)
        from tf_direct_opt import files
        with files.locked(path.parent):
            refusals.append(said(main))
        print(json.dumps([trained, list(csv.DictReader(whole.splitlines())), refusals]))
    """)
    trained, rows, refusals = said
    assert trained == [
        ["direct", 8000, 128.0], ["arms", 8000, 128.0],
        ["direct", 8000, 3.0],  # The other takes no epsilon.
        ["direct", 200, 128.0], ["arms", 200, 128.0],
    ]  # fmt: skip
    assert [(row["steps"], row["seed"], row["epsilon"]) for row in rows[::3]] == [
        ("8000", "0", "128.0"), ("8000", "0", ""), ("8000", "0", "3.0"), ("200", "0", "128.0"),
        ("200", "0", ""),
    ]  # fmt: skip
    for line in refusals[:-1]:
        assert line.startswith(f"Expected the table of this program in {tmp_path}/polynomial_toy")
    assert "Expected a folder that no other process is filling" in refusals[-1]


def test_the_bias_of_epsilon_says_of_what(tmp_path):
    programs.train(
        "experiments/epsilon_bias.py", "--k=3", "--draws=100", "--seed=12345",
        f"--output_dir={tmp_path}",
    )  # fmt: skip
    with (tmp_path / "epsilon_bias.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    settings = [[row[name] for name in ("k", "scale", "draws", "seed")] for row in rows]
    assert settings == [["3", "2.0", "100", "12345"]] * 9


def test_the_quality_of_gradients_says_of_how_many_draws(answer):
    rows = answer("""
        import types
        import gradient_quality as program
        import numpy as np
        from absl import flags
        flags.FLAGS(["a", "--k=2", "--num_variables=3", "--draws=7", "--estimators=disarm"])
        program.exact_gradient = lambda *_: np.ones(3)
        program.drawn_gradients = lambda *_: np.ones([7, 3])
        model = types.SimpleNamespace(num_variables=3, num_categories=2)
        print(json.dumps(program.measure(model, np.zeros([5, 4]), "trained")))
    """)
    assert [(row["estimator"], row["draws"]) for row in rows] == [("disarm", 7)]


def test_a_table_of_flips_is_that_of_direct_alone(answer):
    # I-MLE with such a table would be `direct` under another name.
    tables = answer("""
        from absl import flags
        from tf_direct_opt.runs import estimator_flags, training, vae_flags
        tables = []
        for name in ("direct", "imle"):
            flags.FLAGS.unparse_flags()
            flags.FLAGS(["a", f"--estimator={name}", "--epsilon_schedule=constant"])
            tables.append(estimator_flags.build(10, table="single_flips").table)
        print(json.dumps(tables))
    """)
    assert tables == ["single_flips", "linearised"]


UNREAD = {
    "train_vae": ("--eval_samples=3 --encoder_units=5 --decoder_units=5 --hidden_units=7", [
        "--eval_samples changes nothing with one variable.",
        "--hidden_units changes nothing where both networks have widths of their own.",
    ]),
    "train_structured_vae": (
        "--structure=none --nonnegative --perturbation=unary --num_candidates=4", [
            "--nonnegative changes nothing with --structure=none.",
            "--num_candidates changes nothing without --perturbation=configurations.",
    ]),
    "train_semi_supervised": (
        "--supervised --labelled_per_batch=7 --kl_schedule=linear --label_loss=cross_entropy "
        "--label_cost=2", [
            "--labelled_per_batch changes nothing with --supervised.",
            "--kl_schedule changes nothing with --supervised.",
            "--label_cost changes nothing with --label_loss=cross_entropy.",
    ]),
}  # fmt: skip


@pytest.mark.parametrize(
    "program",
    ["train_semi_supervised"]
    + [pytest.param(p, marks=pytest.mark.slow) for p in ("train_vae", "train_structured_vae")],
)
def test_flags_that_are_not_read_are_noted(answer, program, tmp_path):
    line, expected = UNREAD[program]
    said = answer(f"""
        import contextlib, io
        import {program} as program
        from absl import flags
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            flags.FLAGS(["a", "--output_dir={tmp_path}/new", "--likelihood=gaussian",
                         *{line.split()!r}])
            program.prepare()
        print(json.dumps(err.getvalue().splitlines()))
    """)
    assert {f"note: {line}" for line in expected} <= set(said)
    assert any(line.endswith("these are 0 or 1: please give --binarize=none.") for line in said)
    assert len(said) == len(expected) + 1


def test_the_flags_of_reinmax_are_read_back(answer, tmp_path):
    found = answer(f"""
        import reinmax_vae
        from absl import flags
        from tf_direct_opt.runs.settings import Settings

        def values():
            module = flags.FLAGS.find_module_defining_flag("num_variables")
            found = flags.FLAGS.get_key_flags_for_module(module)
            return {{flag.name: flag.value for flag in found}}

        path = pathlib.Path({str(tmp_path)!r}, "flags.txt")
        for given in ((), ("--set=a=1,b=x",)):
            flags.FLAGS.unparse_flags()
            flags.FLAGS(["a", "--output_dir=b", *given])
            before = values()
            Settings(before).write(path)
            flags.FLAGS.unparse_flags()
            flags.FLAGS(["a", f"--flagfile={{path}}"])
            assert values() == before, (values(), before)
        print(json.dumps(flags.FLAGS.set))
    """)
    assert found == ["a=1", "b=x"]


# Grids of runs, whose files may be damaged.

CELL = """
import compare_estimators as program
import grid
from absl import flags
cell = {"dataset": "digits", "k": 3, "estimator": "direct", "seed": 1}
folder = pathlib.Path(sys.argv[1])
flags.FLAGS(["a", f"--output_dir={folder}", *sys.argv[2:]])
"""
METRICS = {"epochs": 2, "test": {"negative_elbo": 1.0}}
HISTORY = (
    "epoch,seconds,cpu_seconds,loss,val_loss,val_negative_log_likelihood,epsilon\n"
    "0,1.0,2.0,5.0,,,1.0\n1,1.0,2.0,5.0,4.0,3.0,1.0\n"
)


NOT_AS_WRITTEN = "Expected {path} as it was written; received a damaged file: "
DAMAGED = [
    ("history.csv", HISTORY[:-2], "Expected the rows of 2 finished epochs in {path}"),
    ("history.csv", HISTORY[:-17], "Expected the rows of 2 finished epochs in {path}"),
    ("history.csv", "", "Expected the rows of 2 finished epochs in {path}"),
    ("history.csv", HISTORY.replace("3.0,1.0", "3.0,x"), NOT_AS_WRITTEN),
    ("history.csv", HISTORY.replace("val_loss", "vol"), NOT_AS_WRITTEN),
    ("metrics.json", "", NOT_AS_WRITTEN),
    ("metrics.json", "[]", NOT_AS_WRITTEN),
    ("metrics.json", '{"test": {}}', "Please remove it: the same command makes it again."),
]


def test_a_cell_that_diverges_does_not_end_the_grid(answer, tmp_path):
    trained = answer(
        """
        import types
        import grid
        from absl import flags
        from tf_direct_opt import runs
        from tf_direct_opt.callbacks import DivergedError

        folder = pathlib.Path(sys.argv[1])
        flags.FLAGS(["a", f"--output_dir={folder}"])

        def train(run, *_):
            trained.append(run.directory.name)
            if len(trained) == 1:
                raise DivergedError("Expected finite losses; received others.")

        trained, grid.training.train = [], train
        program = types.SimpleNamespace(
            prepare=lambda: runs.Run(flags.FLAGS.output_dir),
            make_feed=lambda: None,
            build_model=None,
        )
        changes = [{"output_dir": str(folder / name)} for name in "ab"]
        for _ in grid.trained(changes, program):
            pass
        print(json.dumps(trained))
    """,
        tmp_path,
    )
    assert trained == ["a", "b"]


def test_damaged_files_of_a_cell_are_named(answer, tmp_path):
    folder = tmp_path / "digits-k3-direct-s1"
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    (folder / "history.csv").write_text(HISTORY)
    script = f"""
directory = folder / program.name_of(cell)
answers = [program.rows_of(cell)]
for name, text, _ in {DAMAGED!r}:
    whole = (directory / name).read_text()
    (directory / name).write_text(text)
    answers.append(said(program.rows_of, cell))
    (directory / name).write_text(whole)
print(json.dumps(answers))
"""
    (row,), *found = answer(CELL + script, tmp_path)
    assert (row["epoch"], row["cpu_seconds"], row["negative_elbo"]) == (2, "4.0", "4.00")
    for said, (name, _, message) in zip(found, DAMAGED, strict=True):
        assert message.format(path=folder / name) in said


def test_damaged_metrics_of_the_table_are_named(answer, tmp_path):
    folder = tmp_path / "digits-50-direct-s1"
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    (folder / "history.csv").write_text(HISTORY)
    said = answer(f"""
        import semi_supervised_table as table
        from absl import flags
        flags.FLAGS(["a", "--output_dir={tmp_path}"])
        cell = {{"dataset": "digits", "num_labels": 50, "method": "direct", "seed": 1}}
        print(json.dumps([said(table.row_of, cell), table.changes_of(cell)["supervised"]]))
    """)
    assert f"Expected {folder}/metrics.json as it was written" in said[0]
    assert said[1] is False


SECONDS = """
from absl.testing import flagsaver
from tf_direct_opt.runs import training

measured, answers, path = [], [], folder / "cpu_seconds.json"
training.cpu_seconds_an_epoch = lambda *_: measured.append(1) or 2.5
for text, given in CASES:
    if text is not None:
        path.write_text(text)
    with flagsaver.flagsaver():
        flags.FLAGS(["a", f"--output_dir={folder}", *given])
        answers.append([said(program.cpu_seconds_an_epoch, cell), len(measured), path.read_text()])
print(json.dumps(answers))
"""


def test_seconds_are_measured_for_the_flags_that_decide_them(answer, tmp_path):
    small, few = "--hidden_units=20", "--batch_size=50"
    cases = [(None, given) for given in ([], ["--verbose=2"], [small], [few, small], [small, few])]
    found = answer(CELL + f"CASES = {cases!r}" + SECONDS, tmp_path)
    assert [said for said, _, _ in found] == [None] * 5
    assert [count for _, count, _ in found] == [1, 1, 2, 3, 3]
    assert json.loads(found[-1][-1]) == {
        "digits-k3-direct": 2.5,
        "digits-k3-direct --hidden_units=20": 2.5,
        "digits-k3-direct --batch_size=50 --hidden_units=20": 2.5,
    }


def test_damaged_seconds_are_named(answer, tmp_path):
    texts = ["", "[]", '{"digits-k3-direct": 0}', '{"digits-k3-direct": {}}']
    cases = [(text, []) for text in texts]
    found = answer(CELL + f"CASES = {cases!r}" + SECONDS, tmp_path)
    for text, (said, count, left) in zip(texts, found, strict=True):
        assert said.startswith(NOT_AS_WRITTEN.format(path=tmp_path / "cpu_seconds.json"))
        assert (count, left) == (0, text)


def test_cells_beyond_their_budget_are_named(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        HEADER
        + CELL
        + """
rows = [
    {**cell, "estimator": name, "cpu_seconds": seconds, "negative_elbo": "1", "bound": "1"}
    for name, seconds in (("direct", "4"), ("exact", "7"), ("exact", "9"))
]
program.say_beyond(rows)
print(json.dumps(program.summary(rows)))
"""
    )
    code, out, err = programs.run(script, tmp_path, "--cpu_seconds=5")
    assert code == 0, err
    said, summary = out.splitlines()
    assert said == (
        "The first evaluation is beyond --cpu_seconds=5, and the last line without it, of "
        "digits-k3-exact-s1."
    )
    assert [line["estimator"] for line in json.loads(summary)] == ["direct"]


def test_shards_go_on_where_there_are_no_locks(answer, tmp_path):
    script = """
import errno, fcntl, os

def go_on():
    try:
        with grid.folder(), grid.in_turn():
            return True
    except OSError as error:
        return error.errno

answers = []
for number in (errno.ENOLCK, errno.ENOTSUP, errno.EIO):
    def flock(*_):
        raise OSError(number, os.strerror(number))
    fcntl.flock = flock
    answers.append(go_on())
print(json.dumps(answers))
"""
    assert answer(CELL + script, tmp_path, "--shard=1/2") == [True, True, 5]


# Parents and children: no model, but locks that are held.
GRID = """
import signal, time
import grid
from absl import flags
from tf_direct_opt.runs import command_line, training

def main():
    with grid.folder() as folder:
        if flags.FLAGS.processes > 1:
            grid.in_processes(["a", "b"])
        else:
            (folder / f"began-{flags.FLAGS.shard[0]}").touch()
            time.sleep(100)

if __name__ == "__main__":
    # Who starts the tests in the background may have it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    command_line.run(main)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT", "SIGKILL"])
def test_children_end_with_their_parent(tmp_path, name):
    script, folder = tmp_path / "script.py", tmp_path / "out"
    script.write_text(HEADER + GRID)
    parent = programs.Program(script, [f"--output_dir={folder}", "--processes=2"])
    began = [folder / f"began-{number}" for number in (1, 2)]
    programs.wait_until(lambda: all(path.exists() for path in began), parent)
    with pytest.raises(ValueError, match="that no other process is filling"):
        files.locked(folder / ".shard-1-of-2").__enter__()
    parent.kill(getattr(signal, name))
    code, _, err = parent.wait()
    number = getattr(signal, name)
    assert code == {"SIGKILL": -number, "SIGINT": 130}.get(name, 128 + number), err
    assert "Traceback" not in err
    # The same command may be given again: at once, or where nobody could wait, soon.
    deadline = time.monotonic() + (20 if name == "SIGKILL" else 0)
    for shard in ("", ".shard-1-of-2", ".shard-2-of-2"):
        while True:
            try:
                with files.locked(folder / shard):
                    break
            except ValueError:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def test_a_hangup_that_is_ignored_stays_so(answer):
    found = answer("""
        import os, signal
        import grid
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with grid._signals_as_exceptions():
            os.kill(os.getpid(), signal.SIGHUP)
            handlers = [signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)]
        print(json.dumps([handlers[0] == signal.SIG_IGN, handlers[1] == signal.SIG_DFL,
                          signal.getsignal(signal.SIGTERM) == signal.SIG_DFL]))
    """)
    assert found == [True, False, True]
