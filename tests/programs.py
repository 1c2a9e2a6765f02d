"""Programs as their users see them, without the seconds that each would take to import TensorFlow.

A server process imports what programs import and executes nothing, so that it can be forked: every
program is a child of it, with its own command line, output, exit code and death.
"""

import contextlib
import io
import json
import multiprocessing
import os
import pathlib
import runpy
import signal
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "tensorflow", "keras", "tensorflow_probability", "h5py", "matplotlib.figure",
        "scipy.optimize", "sklearn.datasets",
    ]
)  # fmt: skip


class Program:
    """A running program.

    Args:
        path: of the program, in the project.
        arguments: of its command line.
        prelude: Python that it executes before: what a test plants.
        cwd: its folder, the project's by default.
    """

    def __init__(self, path, arguments=(), prelude="", cwd=ROOT):
        self._folder = tempfile.TemporaryDirectory()
        for name in ("out", "err"):  # It may be killed before it would open them.
            pathlib.Path(self._folder.name, name).touch()
        argv = [str(ROOT / path), *map(str, arguments)]
        target = (argv, prelude, str(cwd), self._folder.name, dict(os.environ))
        self._process = _CONTEXT.Process(target=_become, args=target)
        self._process.start()

    def poll(self):
        return self._process.exitcode

    def kill(self, number=signal.SIGKILL):
        os.kill(self._process.pid, number)

    def wait(self):
        """Exit code, stdout and stderr; minus a signal's number where that ended it."""
        self._process.join()
        out, err = (pathlib.Path(self._folder.name, name).read_text() for name in ("out", "err"))
        self._folder.cleanup()
        return self._process.exitcode, out, err


def run(path, *arguments, **options):
    """Exit code, stdout and stderr of a program that comes to its end."""
    return Program(path, arguments, **options).wait()


def train(path, *arguments, **options):
    """The JSON that a program ends with."""
    code, out, err = run(path, *arguments, **options)
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


def wait_until(condition, program, seconds=300):
    """Waits for something that a running program does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert program.poll() is None, program.wait()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def refusals(path, command_lines):
    """What a program answers to each of many command lines, all of them in one process.

    Returns:
        For each: exit code, stdout, stderr, and what was left in the folder it was started in.
    """
    with tempfile.TemporaryDirectory() as folder:
        answers = pathlib.Path(folder, "answers.json")
        arguments = (str(ROOT / path), [list(line) for line in command_lines], str(answers))
        process = _CONTEXT.Process(target=_answer_all, args=arguments)
        process.start()
        process.join()
        assert process.exitcode == 0, path
        return json.loads(answers.read_text())


def _prepare(program):
    """What Python does before a program: its folder first among those of modules."""
    sys.path[:0] = [os.path.dirname(program), str(ROOT)]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "examples")])


def _become(argv, prelude, cwd, folder, environment):
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = argv
    _prepare(argv[0])
    exec(prelude, {})
    runpy.run_path(argv[0], run_name="__main__")


def _answer_all(program, command_lines, answers):
    _prepare(program)
    from absl.testing import flagsaver

    from tf_direct_opt.runs import command_line

    # The program is read once, as it is when it is run, but for its last line.
    mains, real = [], command_line.run
    command_line.run = mains.append
    runpy.run_path(program, run_name="__main__")
    command_line.run = real
    found = []
    for arguments in command_lines:
        out, err = io.StringIO(), io.StringIO()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            sys.argv = [program, *arguments]
            with (
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(err),
                flagsaver.flagsaver(),
            ):
                code = _exit_code(real, mains[0])
            left = sorted(str(path.relative_to(folder)) for path in pathlib.Path(folder).rglob("*"))
            os.chdir("/")
        found.append((code, out.getvalue(), err.getvalue(), left))
    pathlib.Path(answers).write_text(json.dumps(found))


def _exit_code(run, main):
    try:
        run(main)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    except Exception:
        import traceback

        traceback.print_exc()
        return 1
    return 0
