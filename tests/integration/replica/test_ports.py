"""A port for each worker: who listens when, and what happens to connections when a worker dies."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from support.replicas import ECHO, NeverStarted, RunningReplica, hold_port, until

from cortex_core.runtime import EXIT_CANNOT_START

Start = Callable[..., RunningReplica]

PID_UNLESS_HELD = """
    import os, time

    while os.path.exists("hold"):
        time.sleep(0.01)

    class Handler:
        def __init__(self, config):
            pass

        def handle_get(self):
            return str(os.getpid())
"""


PID_BUILT_UNLESS_HELD = """
    import os, pathlib, time

    class Handler:
        def __init__(self, config):
            while os.path.exists("hold"):
                pathlib.Path("building").touch()
                time.sleep(0.01)

        def handle_get(self):
            return str(os.getpid())
"""


def test_each_worker_answers_on_its_own_port(start: Start) -> None:
    replica = start(PID_UNLESS_HELD, processes=3)
    workers = replica.health()["workers"]
    assert len({worker["port"] for worker in workers}) == 3
    for worker in workers:
        assert replica.request("GET", port=worker["port"]) == (200, str(worker["pid"]).encode())


def test_ports_that_are_asked_for_are_taken_in_their_order(start: Start) -> None:
    with ExitStack() as stack:
        held = [stack.enter_context(hold_port()) for _ in range(2)]
        ports = [each.getsockname()[1] for each in held]
        replica = start(ECHO, processes=2, worker_ports=ports)
        assert [worker["port"] for worker in replica.health()["workers"]] == ports


def test_a_worker_that_is_dead_refuses_while_another_one_answers(start: Start) -> None:
    replica = start(PID_UNLESS_HELD, processes=2)
    dead, well = _pids(replica)
    (_project(replica) / "hold").touch()
    os.kill(dead, signal.SIGKILL)
    until(lambda: _state(replica, 1) == "starting")
    for _ in range(5):
        with pytest.raises(ConnectionRefusedError):
            replica.connect(port=replica.worker_ports[0])
        assert replica.request("GET", port=replica.worker_ports[1]) == (200, str(well).encode())
    assert _holds(replica.worker_ports[0])
    (_project(replica) / "hold").unlink()
    until(lambda: _state(replica, 1) == "ready")
    assert replica.request("GET", port=replica.worker_ports[0])[0] == 200


def test_while_others_are_ready_nobody_waits_for_a_constructor(start: Start) -> None:
    """One that the first request builds: its port does not take clients before, and then does."""
    replica = start(PID_BUILT_UNLESS_HELD, processes=2)
    dead, well = _pids(replica)
    (_project(replica) / "hold").touch()
    os.kill(dead, signal.SIGKILL)
    until((_project(replica) / "building").exists)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            replica.connect(port=replica.worker_ports[0], timeout=0.2)
        assert replica.request("GET", port=replica.worker_ports[1]) == (200, str(well).encode())
    (_project(replica) / "hold").unlink()
    until(lambda: _state(replica, 1) == "ready")
    assert replica.request("GET", port=replica.worker_ports[0])[0] == 200


def test_a_constructor_is_waited_for_when_the_others_end_meanwhile(start: Start) -> None:
    replica = start(PID_BUILT_UNLESS_HELD, processes=2)
    first, second = _pids(replica)
    (_project(replica) / "hold").touch()
    os.kill(first, signal.SIGKILL)
    until((_project(replica) / "building").exists)
    os.kill(second, signal.SIGKILL)
    until(lambda: _state(replica, 2) != "ready")
    with replica.connect(port=replica.worker_ports[0]) as waiting:
        waiting.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        (_project(replica) / "hold").unlink()
        assert b"".join(iter(partial(waiting.recv, 4096), b"")).startswith(b"HTTP/1.1 200")


def test_when_all_are_dead_connections_wait_for_the_first_one(start: Start) -> None:
    """Only one port takes them, and only its worker is started until it is ready: they wait for no other constructor."""
    replica = start(PID_BUILT_UNLESS_HELD, processes=2)
    (_project(replica) / "hold").touch()
    for pid in _pids(replica):
        os.kill(pid, signal.SIGKILL)
    until((_project(replica) / "building").exists)
    states = [_state(replica, number) for number in (1, 2)]
    assert sorted(states) == ["restarting", "starting"]
    first, second = (replica.worker_ports[states.index(state)] for state in ("starting", "restarting"))
    with pytest.raises(ConnectionRefusedError):
        replica.connect(port=second)
    with ExitStack() as stack:
        waiting = [stack.enter_context(replica.connect(port=first)) for _ in range(2)]
        for connection in waiting:
            connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        (_project(replica) / "hold").unlink()
        answers = [b"".join(iter(partial(each.recv, 4096), b"")) for each in waiting]
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    until(lambda: len(replica.worker_pids()) == 2)
    assert {replica.request("GET", port=port)[0] for port in replica.worker_ports} == {200}


@pytest.mark.parametrize("processes", [1, 2])
def test_nobody_listens_any_more_when_it_has_left(start: Start, processes: int) -> None:
    replica = start(ECHO, processes=processes)
    assert replica.stop() == 0
    for port in replica.worker_ports:
        with pytest.raises(ConnectionRefusedError):
            replica.connect(port=port)


@pytest.mark.parametrize(
    ("ports", "words"),
    [
        ([1, 2], "got 2 ports, and processes_per_replica is 3: give one for each process, or one for all"),
        ([0, 0], "got 2 ports, and processes_per_replica is 3: give one for each process, or one for all"),
        (
            [1, 2, 3, 4],
            "got 4 ports, and processes_per_replica is 3: give one for each process, or one for all",
        ),
    ],
)
def test_ports_that_do_not_fit_are_said(start: Start, ports: list[int], words: str) -> None:
    replica = start(ECHO, processes=3, worker_ports=ports, wait=False)
    assert replica.wait() == EXIT_CANNOT_START
    assert replica.messages() == [f"the replica cannot start: {words}"]


def test_a_port_for_two_workers_is_said(start: Start) -> None:
    with hold_port() as held:
        port = held.getsockname()[1]
        replica = start(ECHO, processes=2, worker_ports=[port, port], wait=False)
        assert replica.wait() == EXIT_CANNOT_START
    words = f"each process needs a port of its own, got {port}, {port}"
    assert replica.messages() == [f"the replica cannot start: {words}"]


def test_a_port_in_use_is_said_whichever_it_is(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(NeverStarted, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            start(ECHO, processes=2, worker_ports=[0, port])


def _pids(replica: RunningReplica) -> list[int]:
    return [worker["pid"] for worker in replica.health()["workers"]]


def _state(replica: RunningReplica, number: int) -> str:
    return str(replica.health()["workers"][number - 1]["state"])


def _project(replica: RunningReplica) -> Path:
    return replica.log_file.parent.parent / "project"


def _holds(port: int) -> bool:
    """Whether a port is somebody's: only who shares it may bind it."""
    with socket.socket() as other:
        try:
            other.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
