"""Processes that train one model together: equal to each other, and to one process."""

import contextlib
import json
import signal
import socket
import time

import programs
import pytest
from replicas import MODELS
from run_folders import assert_same_end, checkpoints_of
from test_replicas import assert_like_one_process


def addresses_of(count):
    """Addresses on this machine whose ports are free."""
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [f"127.0.0.1:{server.getsockname()[1]}" for server in servers]


def config_of(addresses, index):
    """What a program executes first to be one of several workers."""
    config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    return f"import os\nos.environ['TF_CONFIG'] = {json.dumps(config)!r}\n"


def two(program, arguments):
    """Both workers, with arguments of each, as they start."""
    addresses = addresses_of(2)
    return [
        programs.Program(program, arguments(index), prelude=config_of(addresses, index))
        for index in range(2)
    ]


def seen_by_two(folder, cases):
    """What each of two workers saw."""
    outs = [folder / f"{index}.json" for index in range(2)]
    for program in two("tests/replicas.py", lambda index: (outs[index], json.dumps(cases))):
        code, _, err = program.wait()
        assert code == 0, err
    return [json.loads(out.read_text()) for out in outs]


def assert_alike(of_workers, case):
    """Both say the same, to the bit, but for the noise of their replicas; and what one does."""
    first, second = of_workers
    assert first.pop("seeds") != second.pop("seeds")
    assert first == second
    assert_like_one_process(first, case)


def test_two_workers_are_one_process(tmp_path):
    case = ["exact", 2, 201, False]
    (first,), (second,) = seen_by_two(tmp_path, [case])
    assert_alike((first, second), case)


@pytest.mark.slow
def test_all_models(tmp_path):
    cases = [[name, *case] for name in MODELS for case in ((1, 201), (10, 1401))]
    for case, *found in zip(cases, *seen_by_two(tmp_path, cases), strict=True):
        assert_alike(found, case)


# A run of a program: the figures, the folder, and what becomes of it when workers are killed.

FLAGS = ("--distribute=multi_worker", "--k=3", "--hidden_units=8", "--verbose=0", "--epochs=6")


def start(folder, *more):
    flags = (*FLAGS, f"--output_dir={folder}", *more)
    return two("examples/train_vae.py", lambda index: flags)


def figures(workers):
    """The JSON that both end with, which is the same."""
    first, second = (worker.wait() for worker in workers)
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert first[1] == second[1]
    return json.loads(first[1])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers") / "run"
    return folder, figures(start(folder))


@pytest.mark.slow
def test_what_a_run_leaves_is_what_one_process_does(tmp_path):
    folder, other = tmp_path / "two", tmp_path / "one"
    exact = ("--estimator=exact", "--steps_per_execution=7")
    found = figures(start(folder, *exact))
    assert found["output_dir"] == str(folder)
    assert json.loads((folder / "metrics.json").read_text())["test"] == found["test"]
    flags = (*FLAGS, *exact, "--distribute=none", f"--output_dir={other}")
    alone = programs.train("examples/train_vae.py", *flags)
    assert found["test"] == pytest.approx(alone["test"], rel=1e-5)
    names = [sorted(path.name for path in each.iterdir()) for each in (folder, other)]
    assert names[0] == names[1]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [(1,), (0,), (0, 1)], ids=["worker", "chief", "all"])
def test_killed_and_gone_on_with_it_ends_the_same(uninterrupted, tmp_path, killed):
    folder = tmp_path / "run"
    workers = start(folder)
    programs.wait_until((folder / "history.csv").exists, workers[0])
    programs.wait_until(lambda: len(checkpoints_of(folder)) == 2, workers[0])
    for index in killed:
        workers[index].kill()
    since = time.monotonic()
    for index, worker in enumerate(workers):
        code, _, err = worker.wait()
        if index in killed:
            assert code == -signal.SIGKILL
        else:
            assert code == 1
            assert "error: Expected all workers to the end; lost one" in err.splitlines()[-1]
            assert time.monotonic() - since < 60
    resumed = figures(start(folder, "--resume"))
    assert resumed["test"] == uninterrupted[1]["test"]
    assert_same_end(folder, uninterrupted[0])
