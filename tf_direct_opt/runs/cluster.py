"""Runs of several workers: one process each, the same command, their places in TF_CONFIG.

    TF_CONFIG={"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}

The first of them, or the one of type chief, owns the folder of the run. TensorFlow waits for a
worker that does not come without a word and without an end; here they meet before it is started.
"""

import contextlib
import dataclasses
import errno
import faulthandler
import functools
import io
import json
import os
import pathlib
import select
import socket
import sys
import tempfile
import time
import zipfile

from tf_direct_opt.runs.run import SETTINGS, Run

_EXAMPLE = (
    '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
_PAUSE = 0.1  # Seconds between two attempts.
_ANSWER_SECONDS = 10.0  # For what is said at once.
_ROLL_CALL = b"\n"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of a run, and which of them this process is.

    Args:
        addresses: "host:port" of each, the chief's first.
        index: of this process.
    """

    addresses: tuple[str, ...]
    index: int

    @property
    def is_chief(self) -> bool:
        return self.index == 0


def from_environment() -> Cluster:
    """What TF_CONFIG says.

    Raises:
        ValueError: it is not there, or cannot be read.
    """
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text)
        jobs, task = config["cluster"], config["task"]
        addresses = [*jobs.get("chief", []), *jobs.get("worker", [])]
        first = {"chief": 0, "worker": len(jobs.get("chief", []))}[task["type"]]
        index = first + int(task["index"])
        well = (
            jobs.keys() <= {"chief", "worker"}
            and len(jobs.get("chief", [])) <= 1
            and len(set(addresses)) == len(addresses) >= 2
            and 0 <= int(task["index"]) < len(jobs[task["type"]])
            and all(0 < _host_and_port(address)[1] < 2**16 for address in addresses)
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        well = False
    if not well:
        raise ValueError(
            "Expected the environment variable TF_CONFIG to name two or more workers, host:port, "
            f"at most one chief, and which of them this process is, as {_EXAMPLE}; received "
            f"{text or 'none'}. Please set it for every worker."
        )
    return Cluster(tuple(addresses), index)


@functools.cache
def strategy():
    """The `MultiWorkerMirroredStrategy` of this process, before anything else of TensorFlow."""
    import tensorflow as tf

    tf.get_logger().setLevel("WARNING")  # It has a line for every exchange.
    return tf.distribute.MultiWorkerMirroredStrategy()


class SharedRun(Run):
    """A `Run` of several workers: the folder is the chief's, the others fill scratch folders.

    On entering, the workers meet; those without the folder get what a run goes on from.

    Args:
        cluster: who they are.
        timeout: seconds that they wait for each other.
        *args: as for `Run`.
        **kwargs: as for `Run`.

    Raises:
        ValueError: (on entering) a worker did not come, or one has other settings; TensorFlow has
            been used already.
    """

    def __init__(self, cluster: Cluster, timeout: float, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.cluster = cluster
        self.timeout = timeout

    def check(self):
        if self.cluster.is_chief:
            super().check()

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            if self.cluster.is_chief:
                super().__enter__()
                stack.push(super().__exit__)
                welcome(self.cluster, self.timeout, self._shared_lines(), _packed(self.directory))
            else:
                content = join(self.cluster, self.timeout, self._shared_lines())
                scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="worker-"))
                self.directory, self.resume = pathlib.Path(scratch), True
                with zipfile.ZipFile(io.BytesIO(content)) as archive:
                    archive.extractall(scratch)
                super().__enter__()
                stack.push(super().__exit__)
            # TensorFlow itself would wait for one that has ended since, and let nothing else run.
            faulthandler.dump_traceback_later(self.timeout, exit=True, file=sys.__stderr__)
            try:
                strategy()
            except RuntimeError as error:
                raise ValueError(
                    "Expected a run of several workers to be entered before anything else of "
                    f"TensorFlow; received: {' '.join(str(error).split())}. Please enter it first."
                ) from error
            finally:
                faulthandler.cancel_dump_traceback_later()
            self._leave = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._leave.close()

    def _shared_lines(self):
        """The settings that all workers have to share."""
        return self._settings.fixed_lines()


def welcome(cluster: Cluster, timeout: float, settings: list[str], content: bytes) -> None:
    """The chief's part of the meeting: waits for all others, then gives each of them the content.

    Raises:
        ValueError: some did not come in time or have other settings; those that came hear of it.
    """
    deadline = time.monotonic() + timeout
    with _listening(cluster) as server, contextlib.ExitStack() as connections:
        server.settimeout(_PAUSE)
        awaited = range(1, len(cluster.addresses))
        came: dict[int, tuple[socket.socket, list[str]]] = {}
        while len(came) < len(awaited) and time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                connection = connections.enter_context(server.accept()[0])
                connection.settimeout(_ANSWER_SECONDS)
                with connection.makefile("rb") as file:
                    hello = json.loads(file.readline())
                if hello["worker"] in awaited:
                    came[hello["worker"]] = connection, list(map(str, hello["settings"]))
            came = {worker: entry for worker, entry in came.items() if _is_there(entry[0])}
            if len(came) == len(awaited):  # One that just went away may not be seen to have.
                came = {worker: entry for worker, entry in came.items() if _answers(entry[0])}
        others = {worker: theirs for worker, (_, theirs) in came.items()}
        problem = _problem(cluster, timeout, settings, others)
        content = b"" if problem else content
        header = json.dumps({"problem": problem, "size": len(content)}).encode()
        for connection, _ in came.values():
            connection.settimeout(timeout)
            with contextlib.suppress(OSError):
                connection.sendall(header + b"\n" + content)
    if problem:
        raise ValueError(problem)


def join(cluster: Cluster, timeout: float, settings: list[str]) -> bytes:
    """A worker's part of the meeting: what the chief has for it.

    Raises:
        ValueError: the chief did not come in time, or says that another worker did not.
    """
    chief = cluster.addresses[0]
    with _listening(cluster):
        pass  # TensorFlow will find the port free.
    hello = json.dumps({"worker": cluster.index, "settings": settings}).encode()
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            with socket.create_connection(_host_and_port(chief), _ANSWER_SECONDS) as connection:
                connection.sendall(hello + b"\n")
                # The chief may have come a moment ago, and wait for others as long.
                connection.settimeout(timeout + _ANSWER_SECONDS)
                with connection.makefile("rb") as file:
                    while (line := file.readline()) == _ROLL_CALL:
                        connection.sendall(_ROLL_CALL)
                    header = json.loads(line)
                    content = file.read(header["size"])
            if len(content) == header["size"]:
                break
        time.sleep(_PAUSE)
    else:
        raise ValueError(
            f"Expected the chief, {chief}, within the {timeout:g} seconds of --worker_timeout; "
            "received no answer. Please start it with the same command, or correct TF_CONFIG."
        )
    if header["problem"]:
        raise ValueError(header["problem"])
    return content


def _is_there(connection: socket.socket) -> bool:
    """Whether the other side still waits: it has no more to say, so that what comes is an end."""
    return not select.select([connection], [], [], 0)[0]


def _answers(connection: socket.socket) -> bool:
    """Whether the other side answers the roll call; where it does not, it has to come again."""
    with contextlib.suppress(OSError):
        connection.sendall(_ROLL_CALL)
        if connection.recv(1) == _ROLL_CALL:
            return True
    connection.close()
    return False


def _problem(cluster, timeout, settings, others: dict[int, list[str]]) -> str:
    """What keeps the workers that came from beginning; nothing where all are there, alike."""
    missing = [i for i in range(1, len(cluster.addresses)) if i not in others]
    if missing:
        named = ", ".join(f"worker {i} at {cluster.addresses[i]}" for i in missing)
        return (
            f"Expected all {len(cluster.addresses)} workers within the {timeout:g} seconds of "
            f"--worker_timeout; received none from {named}. Please start it with the same command, "
            "or correct TF_CONFIG."
        )
    for i, theirs in others.items():
        if differing := sorted(set(theirs) ^ set(settings)):
            return (
                f"Expected the same flags on all workers; received others on worker {i} at "
                f"{cluster.addresses[i]}: in one of the two only are {' '.join(differing)}. Please "
                "start all with the same command."
            )
    return ""


def _listening(cluster: Cluster) -> socket.socket:
    """A server on this process's port; ValueError where that is taken."""
    address = cluster.addresses[cluster.index]
    everywhere = "", _host_and_port(address)[1]
    try:
        if socket.has_dualstack_ipv6():
            try:
                return socket.create_server(everywhere, family=socket.AF_INET6, dualstack_ipv6=True)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise  # Any other error: a kernel with IPv6 on a machine that does not use it.
        return socket.create_server(everywhere)
    except OSError as error:
        raise ValueError(
            f"Expected the port of {address} to be free on its worker; received: {error.strerror}. "
            "Please end what uses it, or give another port in TF_CONFIG."
        ) from error


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _packed(directory: pathlib.Path) -> bytes:
    """What a run goes on from, as a zip archive."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for pattern in (SETTINGS, "history.csv", "checkpoints/epoch-*"):
            for path in directory.glob(pattern):
                archive.write(path, path.relative_to(directory))
    return packed.getvalue()
