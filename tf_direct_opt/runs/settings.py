"""The settings of a run as lines of a flagfile: written, read back and compared."""

import os
import pathlib
from collections.abc import Collection, Mapping


class Settings:
    """What decides the results of a run, by name.

    Args:
        values: text, numbers, booleans, None and paths, or lists, tuples and mappings of them.
        free: names of those that may change on the way.

    Raises:
        ValueError: settings of another kind, or of several lines; a single text for `free`.
    """

    def __init__(self, values: Mapping[str, object], free: Collection[str] = ()):
        if isinstance(free, str):  # In which every part of it would be found.
            raise ValueError(
                f"Expected `free` to be a list of names; received {free!r}. Please give [{free!r}]."
            )
        self.values = plain("the settings", values)
        self._free = tuple(free)
        for line in self.lines():  # What is read back must be what was written.
            if line.encode(errors="replace").decode().splitlines() != [line]:
                raise ValueError(
                    f"Expected every setting to be one line of UTF-8; received {line!r}. Please "
                    "give one line."
                )

    def lines(self) -> list[str]:
        """As lines of a flagfile."""
        lines = []
        for name, value in sorted(self.values.items()):
            if isinstance(value, bool):
                lines.append(f"--{'' if value else 'no'}{name}")
            elif isinstance(value, list):  # An empty one is another choice than None.
                lines.append(f"--{name}={','.join(map(str, value))}")
            elif value is not None:
                lines.append(f"--{name}={value}")
        return lines

    def fixed_lines(self) -> list[str]:
        """The lines of those that may not change on the way."""
        return list(filter(self._fixed, self.lines()))

    def write(self, path: pathlib.Path) -> None:
        """Writes the flagfile."""
        path.write_text("".join(f"{line}\n" for line in self.lines()), encoding="utf-8")

    def require_same(self, path: pathlib.Path) -> None:
        """ValueError if the flagfile has others, but for those that are free."""
        try:
            before = set(path.read_text(encoding="utf-8").splitlines())
        except UnicodeDecodeError as error:
            raise ValueError(
                f"Expected the flags of a run in {path}; received a damaged file: {error}. Please "
                "give another --output_dir."
            ) from error
        changed = sorted(filter(self._fixed, before ^ set(self.lines())))
        if changed:
            raise ValueError(
                f"Expected the flags of the run in {path} to resume it; received others, or a "
                f"damaged file: in one of the two only are {' '.join(changed)}. Please add "
                f"--flagfile={path}, or give another --output_dir."
            )

    def _fixed(self, line: str) -> bool:
        """Whether a line is of a setting that may not change on the way."""
        name, equals, _ = line.removeprefix("--").partition("=")
        positive = name.removeprefix("no")
        if not equals and name not in self.values and positive in self.values:
            name = positive  # The line is the negation of a boolean setting.
        return name not in self._free


def plain(what: str, value):
    """The same of Python's own kinds, which JSON can hold; ValueError where there is none."""
    import numpy as np

    if isinstance(value, np.generic | np.ndarray) and value.ndim == 0:
        value = value.item()
    elif isinstance(value, os.PathLike):
        value = os.fspath(value)
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple):
        entries = (plain(what, entry) for entry in value)
        return tuple(entries) if isinstance(value, tuple) else list(entries)
    if isinstance(value, Mapping):
        return {str(name): plain(f"`{name}` in {what}", entry) for name, entry in value.items()}
    raise ValueError(
        f"Expected {what} to be text, a number, a boolean, None or a path, or a list, tuple or "
        f"mapping of them; received one of type {type(value).__name__}. Please give one of these."
    )
