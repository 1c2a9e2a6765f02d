"""From a command line to a program's main: whatever goes wrong is one line, not a traceback.

A program ends in

    if __name__ == "__main__":
        command_line.run(main)
"""

import contextlib
import errno
import importlib.util
import math
import os
import pathlib
import re
import sys
from collections.abc import Callable, Collection

from absl import app, flags

from tf_direct_opt import files

FLAGS = flags.FLAGS


def run(main: Callable[[], object]) -> None:
    """Reads the flags, then calls `main`; errors that a user can mend become one line."""

    def without_arguments(argv):
        if len(argv) > 1:
            raise ValueError(
                f"Expected flags only; received the arguments {argv[1:]}. Please give --help for "
                "a list of the flags."
            )
        backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
        if backend != "tensorflow":
            raise ValueError(
                f"Expected Keras on TensorFlow; received KERAS_BACKEND={backend}. Please unset it."
            )
        main()

    with one_line_errors():
        app.run(without_arguments, flags_parser=_parse)


@contextlib.contextmanager
def one_line_errors():
    """Turns errors of what the user gave, or of his machine, into one line and an exit code."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"error: interrupted{_going_on()}.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        line = _explain(error)
        if line is None:
            raise
        sys.exit(f"error: {' '.join(line.split())}")


def require_memory(floats: float, cure: str) -> None:
    """Raises ValueError where so many numbers are more than the machine's memory holds.

    Linux would give the memory, and kill the program when it is used.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 4 * floats > memory:
        raise ValueError(
            f"Expected a model and batches that fit into memory, {memory / 2**30:.0f} GiB; "
            f"received one that takes {4 * floats / 2**30:.0f} GiB at least. Please give {cure}."
        )


def make_folder(name: str, results: Collection[str] = ()) -> pathlib.Path:
    """The folder of that name, made if it is not there, for files of these names.

    Raises:
        ValueError: an empty name, a folder that cannot be made or written, or that has one of the
            files.
    """
    path = files.expanded(name)
    try:
        if not name:
            raise ValueError(
                "Expected a folder for --output_dir; received an empty name. Please name one."
            )
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(None, os.strerror(errno.EACCES))
    except OSError as error:
        raise ValueError(
            f"Expected --output_dir to be a folder that can be written; received {path}: "
            f"{error.strerror}. Please give another one."
        ) from error
    if found := [name for name in results if os.path.lexists(path / name)]:
        raise ValueError(
            f"Expected a new --output_dir; received {path}, which holds {', '.join(found)}. Please "
            "give another folder."
        )
    return path


def require_packages(*names: str) -> None:
    """Raises ValueError where a package is not installed, before it is needed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ValueError(_missing(name))


def refuse(names: Collection[str], where: str) -> None:
    """Raises ValueError for flags that were given, where they would change nothing."""
    for name in names:
        if FLAGS[name].present:
            raise ValueError(
                f"Expected no --{name} {where}, as it would change nothing; received one. Please "
                "leave it out."
            )


def given() -> dict:
    """All flags of the program that is run, for its results: name -> value."""
    program = FLAGS.find_module_defining_flag("output_dir")
    return {flag.name: flag.value for flag in FLAGS.get_key_flags_for_module(program)}


def some(name: str) -> list[str]:
    """The values of a list flag, at least one of them."""
    values = FLAGS[name].value
    if not values:
        raise ValueError(f"Expected at least one entry in --{name}; received none. Please add one.")
    return _distinct(name, values)


def integers(name: str, least: int = 0) -> list[int]:
    """The values of a list flag as integers."""
    return _distinct(name, _integers(name, some(name), least))


def widths(name: str) -> list[int]:
    """The values of a list flag as widths of layers; `--name=` is a network without hidden ones."""
    return _integers(name, FLAGS[name].value or [], 1)


def _integers(name: str, values: list[str], least: int) -> list[int]:
    if not all(value.isdecimal() and least <= int(value) < 2**31 for value in values):
        raise ValueError(
            f"Expected integers of at least {least} in --{name}; received {','.join(values)!r}. "
            "Please separate them by commas."
        )
    return [int(value) for value in values]


def numbers(name: str) -> list[float]:
    """The values of a list flag as finite numbers."""
    values = some(name)
    try:
        found = [float(value) for value in values]
    except ValueError:
        found = [math.nan]
    if not all(map(math.isfinite, found)):
        raise ValueError(
            f"Expected finite numbers in --{name}; received {','.join(values)!r}. Please separate "
            "them by commas."
        )
    return _distinct(name, found)


def choices(name: str, known: Collection[str]) -> list[str]:
    """The values of a list flag, all of them known."""
    values = some(name)
    if not set(values) <= set(known):
        raise ValueError(
            f"Expected --{name} of {', '.join(known)}; received {','.join(values)!r}. Please "
            "separate them by commas."
        )
    return values


def _distinct(name: str, values: list) -> list:
    """The values, all of them different: one that is there twice would count twice."""
    if len(set(values)) < len(values):
        raise ValueError(
            f"Expected every entry of --{name} once; received {','.join(map(str, values))!r}. "
            "Please leave out what is repeated."
        )
    return values


def _parse(argv: list[str]) -> list[str]:
    try:
        rest = FLAGS(argv)
    except (flags.Error, UnicodeDecodeError, OSError) as error:
        raise ValueError(
            f"Expected flags of this program; received what it cannot read: {error}. Please give "
            "--help for a list of the flags."
        ) from error
    for name in FLAGS:
        value = FLAGS[name].value
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(
                f"Expected --{name} to be a finite number; received {value}. Please give another."
            )
    return rest


def _explain(error: Exception) -> str | None:
    """The line for an error, None for one that is a fault of the program."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, ValueError):
        return str(error)
    if "OpError" in kinds and (line := _explain_operation(str(error))):
        return line
    if isinstance(error, MemoryError) or "ResourceExhaustedError" in kinds:
        return (
            "Expected a model and batches that fit into memory; received more than there is. "
            "Please give fewer categories or variables, or a smaller --batch_size."
        )
    if isinstance(error, ModuleNotFoundError) and error.name:
        return _missing(error.name)
    if isinstance(error, OSError) and error.errno is not None:
        what = error.filename or "the output folder"
        cure = "Please give another one."
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            cure = f"Please free some space{_going_on()}."
        return f"Expected to read or write {what}; received: {error.strerror}. {cure}"
    return None


def _going_on() -> str:
    """What can be said where there are runs."""
    return "; --resume goes on with the run" if "resume" in FLAGS else ""


def _explain_operation(message: str) -> str | None:
    """The line for an error of TensorFlow's that quotes one of this package, or the disk's."""
    if "No space left on device" in message:
        return (
            "Expected to write the output folder; received: No space left on device. Please free "
            f"some space{_going_on()}."
        )
    if "Expected finite" in message:
        return DIVERGED
    found = re.search(r"Expected [^\]\n]*", message)
    return found and found[0].strip()


DIVERGED = (
    "Expected finite logits and losses; received others: training diverged. The last finite "
    "checkpoint, where there is one, is kept; please start again with a lower --learning_rate in "
    "another --output_dir."
)

# The extra of this package that brings another package.
_EXTRAS = {
    "importlib_resources": "examples",
    "matplotlib": "examples",
    "maxflow": "maxflow",
    "scipy": "solvers",
    "sklearn": "examples",
    "tensorflow_datasets": "examples",
}


def _missing(package: str) -> str:
    package = package.partition(".")[0]
    extra = f"[{_EXTRAS[package]}]" if package in _EXTRAS else ""
    return (
        f"Expected the package {package}; received an environment without it. Please run, in the "
        f'folder of tf_direct_opt: python -m pip install -e ".{extra}"'
    )
