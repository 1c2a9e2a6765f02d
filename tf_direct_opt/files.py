"""Files that are either whole or not there, and folders that one process at a time fills.

Needs neither TensorFlow nor Keras: a program may use it before it imports them.
"""

import contextlib
import csv
import errno
import hashlib
import os
import pathlib
import re
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping

LOCK = ".lock"


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


def write_table(
    path: str | os.PathLike, columns: Iterable[str], rows: Iterable[Mapping[str, object]]
) -> None:
    """Writes a CSV file with a header, whole or not at all."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows)


def remove_temporaries(path: str | os.PathLike) -> None:
    """Removes what processes that were killed in `replacing(path)` left, and nothing else."""
    path = pathlib.Path(path)
    pattern = re.compile(rf"\.tmp-\d+-{re.escape(path.name)}")
    if path.parent.is_dir():
        for neighbour in path.parent.iterdir():
            if pattern.fullmatch(neighbour.name) and neighbour.is_file():
                neighbour.unlink(missing_ok=True)


def digest(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(directory: str | os.PathLike) -> str:
    """What tells the files in a folder from others of the same names: 16 hexadecimal digits.

    Their names, sizes and times of change, not their bytes, which would take as long to read as
    what is in them.
    """
    paths = sorted(path for path in pathlib.Path(directory).rglob("*") if path.is_file())
    stats = [(str(path), path.stat()) for path in paths]
    listing = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(repr(listing).encode()).hexdigest()[:16]


def expanded(path: str | os.PathLike) -> pathlib.Path:
    """The path, with ~ and ~name as home directories.

    Raises:
        ValueError: there is no such home directory, or it is no path but an address.
    """
    if "://" in str(path):
        raise ValueError(
            f"Expected a folder or file of this machine; received the address {path}. Please give "
            "a path, and copy what is there in the end."
        )
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"Expected a folder or file; received {path}, whose home directory cannot be found. "
            "Please give its path without ~."
        ) from error


def cache_folder() -> pathlib.Path:
    """Where what can be made again is kept: below $XDG_CACHE_HOME, or ~/.cache."""
    try:
        home = expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    except ValueError:
        home = pathlib.Path(os.devnull)  # Without a home nothing is kept.
    return home / "tf_direct_opt"


def require_space(directory: str | os.PathLike, num_bytes: int) -> None:
    """OSError where the disk has no room for so many bytes more.

    For what does not survive finding out for itself: HDF5 ends the process.
    """
    with tempfile.TemporaryFile(dir=str(directory)) as probe:
        if hasattr(os, "posix_fallocate"):  # It knows of quotas as well.
            os.posix_fallocate(probe.fileno(), 0, max(num_bytes, 1))
        elif shutil.disk_usage(directory).free < num_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


def kept_arrays(path: str | os.PathLike, make: Callable[[], dict]) -> dict:
    """The NumPy arrays in a compressed file; made, and written, where it is damaged or not there.

    Safe for several processes at once. A file that cannot be written is no error: its arrays are
    made every time.

    Args:
        path: of the file, .npz.
        make: () -> arrays by name.
    """
    import numpy as np

    path = pathlib.Path(path)
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        arrays = make()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            np.savez_compressed(temporary, **arrays)
    return arrays


def has_no_locks(error: Exception) -> bool:
    """Whether a lock failed because the file system has none."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOLCK, errno.ENOTSUP)
    return isinstance(error, NotImplementedError)


@contextlib.contextmanager
def locked(directory: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Holds a folder, made if it is not there, against other processes that would fill it.

    The lock ends with the process, however that ends. It is the operating system's: it holds on
    one machine, and between machines where the network file system passes it on (NFS 4 does); a
    file system without locks is reported, and the folder used nevertheless. A folder that was
    made here is removed again where nothing was left in it.

    Raises:
        ValueError: another process holds the folder.
        OSError: the folder cannot be made or written.
    """
    import filelock

    directory = pathlib.Path(directory)
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(directory / LOCK, timeout=0)
    try:
        try:
            lock.acquire()
        except filelock.Timeout:
            made = []
            raise ValueError(
                f"Expected a folder that no other process is filling; received {directory}. Please "
                "wait for that process, end it, or give another folder."
            ) from None
        except (NotImplementedError, OSError) as error:
            if not has_no_locks(error):
                raise
            print(
                f"note: the file system of {directory} has no locks; two processes in this folder "
                "would not notice each other.",
                file=sys.stderr,
            )
        yield directory
    finally:
        if lock.is_locked:
            # While it is held: a process that waits for it notices that its file is gone.
            (directory / LOCK).unlink(missing_ok=True)
            lock.release()
        with contextlib.suppress(OSError):  # Not empty.
            for folder in made:
                folder.rmdir()
