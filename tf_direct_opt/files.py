"""Files that are either whole or not there."""

import contextlib
import os
import pathlib
from collections.abc import Iterator


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
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
