"""Files that are either whole or not there."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

_PREFIX = ".tmp-"


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a temporary name beside `path` to write to, renamed to `path` on success.

    A process killed at any point leaves the old file, or the new one, never half of one; the
    temporary keeps the suffix, by which Keras chooses a format.

    Example:
        >>> with replacing("/tmp/figure.json") as temporary:
        ...     _ = temporary.write_text("{}")
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f"{_PREFIX}{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(directory: str | os.PathLike) -> None:
    """Removes what processes that were killed in `replacing` left in a folder and below it."""
    for path in pathlib.Path(directory).rglob(f"{_PREFIX}*"):
        path.unlink(missing_ok=True)
