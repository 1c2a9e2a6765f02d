"""Workers meet before TensorFlow is started: who is missing is named, what one has all get."""

import contextlib
import errno
import json
import socket
import threading
import time

import programs
import pytest
from run_folders import assert_one_line
from test_several_workers import addresses_of, config_of

from tf_direct_opt.runs import cluster

TWO = {"worker": ["a:1", "b:2"]}
CHIEF = {"chief": ["c:3"], "worker": ["a:1", "[::1]:2"]}


@pytest.mark.parametrize(
    ("jobs", "kind", "index", "expected"),
    [
        (TWO, "worker", 0, cluster.Cluster(("a:1", "b:2"), 0)),
        (TWO, "worker", 1, cluster.Cluster(("a:1", "b:2"), 1)),
        (CHIEF, "chief", 0, cluster.Cluster(("c:3", "a:1", "[::1]:2"), 0)),
        (CHIEF, "worker", 1, cluster.Cluster(("c:3", "a:1", "[::1]:2"), 2)),
    ],
)
def test_places_of_a_cluster(monkeypatch, jobs, kind, index, expected):
    config = {"cluster": jobs, "task": {"type": kind, "index": index}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert cluster.from_environment() == expected
    assert expected.is_chief == (expected.index == 0)


@pytest.mark.parametrize(
    "config",
    [
        None, "", "{", "[]", "{}", {"cluster": TWO}, {"task": {"type": "worker", "index": 0}},
        {"cluster": TWO, "task": {"type": "worker", "index": 2}},
        {"cluster": TWO, "task": {"type": "worker", "index": -1}},
        {"cluster": TWO, "task": {"type": "worker", "index": "one"}},
        {"cluster": TWO, "task": {"type": "ps", "index": 0}},
        {"cluster": TWO | {"ps": ["d:4"]}, "task": {"type": "worker", "index": 0}},
        {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}},
        {"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}},
        {"cluster": {"worker": ["a:1", "b"]}, "task": {"type": "worker", "index": 0}},
        {"cluster": {"worker": ["a:1", "b:0"]}, "task": {"type": "worker", "index": 0}},
        {"cluster": {"worker": ["a:1", 5]}, "task": {"type": "worker", "index": 0}},
        {"cluster": {"worker": "a:1,b:2"}, "task": {"type": "worker", "index": 0}},
        {"cluster": {"chief": ["a:1", "b:2"]}, "task": {"type": "chief", "index": 0}},
    ],
)  # fmt: skip
def test_what_names_no_place_is_refused(monkeypatch, config):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(ValueError, match="Expected the environment variable TF_CONFIG to name"):
        cluster.from_environment()


def meeting(addresses, present, timeout=20.0, settings=None, content=b""):
    """What came of each: the content it has, or what it was told, and after how many seconds."""
    found = {}

    def take_part(index):
        place, theirs = cluster.Cluster(tuple(addresses), index), (settings or {}).get(index, [])
        start = time.monotonic()
        try:
            if place.is_chief:
                cluster.welcome(place, timeout, theirs, content)
                found[index] = content
            else:
                found[index] = cluster.join(place, timeout, theirs)
        except ValueError as error:
            found[index] = str(error)
        assert time.monotonic() - start < timeout + 5.0

    threads = [threading.Thread(target=take_part, args=(index,)) for index in present]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_all_get_what_the_chief_has():
    content = bytes(range(256)) * 10_000
    found = meeting(addresses_of(3), [2, 0, 1], content=content)
    assert found == dict.fromkeys(range(3), content)


def test_a_missing_worker_is_named_to_all():
    addresses = addresses_of(3)
    found = meeting(addresses, [0, 2], timeout=0.5)
    assert found.keys() == {0, 2}
    for line in found.values():
        assert f"received none from worker 1 at {addresses[1]}. Please" in line


def test_a_missing_chief_is_named():
    addresses = addresses_of(2)
    line = meeting(addresses, [1], timeout=0.5)[1]
    assert line.startswith(f"Expected the chief, {addresses[0]}, within the 0.5 seconds of")


def test_a_worker_with_other_flags():
    addresses = addresses_of(2)
    found = meeting(
        addresses, [0, 1], settings={0: ["--k=3", "--seed=1"], 1: ["--k=4", "--seed=1"]}
    )
    for line in found.values():
        assert f"on worker 1 at {addresses[1]}: in one of the two only are --k=3 --k=4." in line


@contextlib.contextmanager
def chief_of(addresses, timeout, content=b""):
    """A chief that waits, and how to visit it: what is said, and whether its roll call is awaited.

    Yields what came of the chief, once it has ended, and the function that visits.
    """
    found = {}
    chief = threading.Thread(
        target=lambda: found.update(meeting(addresses, [0], timeout, {}, content))
    )
    chief.start()

    def visit(message, heard=0):
        for _ in range(500):  # The thread may not have opened its port yet.
            with contextlib.suppress(ConnectionRefusedError):
                visitor = cluster.socket.create_connection(cluster._host_and_port(addresses[0]))
                break
            time.sleep(0.01)
        with visitor:
            visitor.sendall(message)
            if heard:
                assert visitor.recv(heard) == b"\n"

    yield found, visit
    chief.join()


HELLO = json.dumps({"worker": 1, "settings": []}).encode() + b"\n"


@pytest.mark.parametrize(
    "message",
    [
        b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b"", b"\xff\n",
        HELLO.replace(b"1", b"7"), HELLO.replace(b"1", b"[]"), HELLO.replace(b"[]", b"3"),
    ],
)  # fmt: skip
def test_strangers_are_not_workers(monkeypatch, message):
    monkeypatch.setattr(cluster, "_ANSWER_SECONDS", 0.3)
    addresses = addresses_of(2)
    with chief_of(addresses, 0.5) as (found, visit):
        visit(message)
    assert f"received none from worker 1 at {addresses[1]}" in found[0]


@pytest.mark.parametrize("heard", [0, 1])  # Gone at once, or while the roll is called.
def test_one_that_went_away_is_missing(heard):
    addresses = addresses_of(2)
    with chief_of(addresses, 1.0) as (found, visit):
        visit(HELLO, heard)
    assert f"received none from worker 1 at {addresses[1]}" in found[0]


def test_one_that_came_again_is_not_missing():
    addresses = addresses_of(2)
    with chief_of(addresses, 20.0, b"now") as (found, visit):
        visit(HELLO, 1)
        assert meeting(addresses, [1]) == {1: b"now"}
    assert found[0] == b"now"


def test_a_port_in_use_is_named():
    addresses = addresses_of(2)
    with cluster._listening(cluster.Cluster(tuple(addresses), 1)):
        line = meeting(addresses, [1], timeout=0.5)[1]
    assert line.startswith(
        f"Expected the port of {addresses[1]} to be free on its worker; received"
    )


def test_workers_meet_over_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("a machine without IPv6")
    addresses = [address.replace("127.0.0.1", "[::1]") for address in addresses_of(2)]
    assert meeting(addresses, [0, 1], content=b"now") == {0: b"now", 1: b"now"}


def test_a_machine_without_ipv6_addresses(monkeypatch):
    """The kernel knows IPv6, and then has no address to give."""
    create = socket.create_server

    def of_version_4(address, *, family=socket.AF_INET, **_):
        if family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        return create(address)

    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: True)
    monkeypatch.setattr(socket, "create_server", of_version_4)
    with cluster._listening(cluster.Cluster(tuple(addresses_of(2)), 1)) as server:
        assert server.family == socket.AF_INET


def test_a_port_in_use_over_ipv4_alone_is_named():
    addresses = addresses_of(2)
    with (
        socket.create_server(cluster._host_and_port(addresses[1])),
        pytest.raises(ValueError, match="to be free on its worker; received"),
    ):
        cluster._listening(cluster.Cluster(tuple(addresses), 1))


def test_tensorflow_used_before_is_one_line_and_no_later_death(monkeypatch, tmp_path):
    calls = []

    def too_late():
        calls.append("strategy")
        raise RuntimeError("Collective ops must be\nconfigured at program startup")

    for name in ("dump_traceback_later", "cancel_dump_traceback_later"):
        monkeypatch.setattr(cluster.faulthandler, name, lambda *_, n=name, **__: calls.append(n))
    monkeypatch.setattr(cluster, "strategy", too_late)
    monkeypatch.setattr(cluster, "welcome", lambda *_: None)
    run = cluster.SharedRun(cluster.Cluster(("a:1", "b:1"), 0), 300.0, tmp_path / "run")
    with pytest.raises(ValueError, match="entered before anything else of TensorFlow") as error:
        run.__enter__()
    assert "; received: Collective ops must be configured at program startup. " in str(error.value)
    assert calls == ["dump_traceback_later", "strategy", "cancel_dump_traceback_later"]
    assert not (tmp_path / "run").exists()  # Nor is it held any more.


def test_a_run_that_waits_in_vain_ends_with_one_line_and_leaves_nothing(tmp_path):
    addresses = addresses_of(2)
    flags = ("--distribute=multi_worker", "--worker_timeout=1", f"--output_dir={tmp_path / 'run'}")
    for index, missing in ((0, f"none from worker 1 at {addresses[1]}"), (1, "Expected the chief")):
        code, _, err = programs.run(
            "examples/train_vae.py", *flags, prelude=config_of(addresses, index)
        )
        assert code == 1
        assert_one_line(err, missing)
    assert not (tmp_path / "run").exists()
