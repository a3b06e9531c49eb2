"""Start, ready, serve, stop."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest
from support.replicas import ECHO, NeverStarted, RunningReplica, until

Start = Callable[..., RunningReplica]

ENDLESS = """
    import time

    class Handler:
        def __init__(self, config):
            pass

        def handle_get(self):
            time.sleep(1000)
"""


def test_it_serves_and_ends_with_status_0(start: Start) -> None:
    replica = start(ECHO)
    assert replica.request(body=b'{"a": 1}')[0] == 200
    assert json.loads(replica.request(body=b'{"a": 1}')[1]) == {"a": 1}
    family = replica.family()
    assert replica.stop() == 0
    assert not any(each.is_running() for each in family)


def test_it_is_not_ready_until_every_worker_has_built_its_handler(start: Start) -> None:
    source = """
        import os, time

        class Handler:
            def __init__(self, config):
                while not os.path.exists("go"):
                    time.sleep(0.01)

            def handle_get(self):
                return "here"
    """
    replica = start(source, processes=2, wait=False)
    until(lambda: len(replica.family()) == 3)
    status, body = replica.admin("/readyz")
    assert (status, json.loads(body)) == (503, {"ready": False, "reasons": ["0 of 2 workers are ready"]})
    assert replica.admin("/healthz")[0] == 200
    (replica.log_file.parent.parent / "project" / "go").touch()
    until(replica.ready)
    assert replica.request("GET")[0] == 200


def test_constructors_run_one_at_a_time(start: Start) -> None:
    source = """
        import os, time

        class Handler:
            def __init__(self, config):
                os.mkdir("busy")  # fails when another one is in here
                time.sleep(0.1)
                os.rmdir("busy")

            def handle_get(self):
                return "here"
    """
    replica = start(source, processes=3)
    assert len(replica.worker_pids()) == 3


@pytest.mark.parametrize("answer", ["return", "yield"])
@pytest.mark.parametrize(
    ("processes", "share"), [(1, False), (3, False), (3, True)], ids=["one", "own ports", "one port"]
)
def test_with_one_thread_the_constructor_and_all_requests_share_it(
    start: Start, processes: int, share: bool, answer: str
) -> None:
    source = f"""
        import os, sqlite3

        class Handler:
            def __init__(self, config):
                self.connection = sqlite3.connect(":memory:")  # may only be used by this thread

            def handle_get(self):
                self.connection.execute("select 1")
                {answer} str(os.getpid())
    """
    replica = start(source, processes=processes, share=share)
    answers = [replica.request("GET") for _ in range(12)]
    assert {status for status, _ in answers} == {200}
    assert {int(pid) for _, pid in answers} <= set(replica.worker_pids())


def test_a_worker_started_again_is_built_by_a_request_that_waited(start: Start) -> None:
    source = """
        import sqlite3

        class Handler:
            def __init__(self, config):
                self.connection = sqlite3.connect(":memory:")

            def handle_get(self):
                return self.connection.execute("select 7").fetchone()[0]
    """
    replica = start(source)
    psutil.Process(replica.worker_pids()[0]).kill()
    assert replica.request("GET") == (200, b"7")


def test_modules_are_imported_by_all_workers_at_the_same_time(start: Start) -> None:
    source = """
        import os, time

        os.mkdir(f"importing-{os.getpid()}")
        deadline = time.monotonic() + 10
        while sum(name.startswith("importing-") for name in os.listdir()) < 2:
            assert time.monotonic() < deadline, "the other worker does not import"
            time.sleep(0.01)

        class Handler:
            def __init__(self, config):
                pass

            def handle_get(self):
                return "here"
    """
    assert len(start(source, processes=2).worker_pids()) == 2


@pytest.mark.parametrize("share", [False, True], ids=["own ports", "one port"])
def test_workers_share_the_load(start: Start, share: bool) -> None:
    source = """
        import os, time

        class Handler:
            def __init__(self, config):
                pass

            def handle_get(self):
                time.sleep(0.05)
                return str(os.getpid())
    """
    replica = start(source, processes=2, share=share)
    connections = [replica.connect() for _ in range(16)]
    for connection in connections:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    answers = [_read_all(connection).rpartition(b"\r\n")[2] for connection in connections]
    assert {int(answer) for answer in answers} == set(replica.worker_pids())


def test_sigterm_while_the_handler_is_built_ends_it_at_once(start: Start) -> None:
    source = """
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)
    """
    replica = start(source, wait=False)
    until(lambda: len(replica.family()) == 2)
    family = replica.family()
    began = time.monotonic()
    assert replica.stop() == 0
    assert time.monotonic() - began < 2
    assert not any(each.is_running() for each in family)


def test_a_second_signal_ends_it_now(start: Start) -> None:
    replica = start(ENDLESS)
    with in_flight(replica):
        replica.signal(signal.SIGTERM)
        until(lambda: not replica.ready())
        assert json.loads(replica.admin("/readyz")[1])["reasons"] == ["the replica is shutting down"]
        replica.signal(signal.SIGTERM)
        assert replica.wait(within=2) == 128 + signal.SIGTERM


def test_what_is_not_finished_after_the_grace_is_killed(start: Start) -> None:
    replica = start(ENDLESS, options=["--grace", "0.5"])
    with in_flight(replica):
        family = replica.family()
        assert replica.stop(within=3) == 0
    assert not any(each.is_running() for each in family)
    assert "not finished after 0.5 s: ending what is left" in replica.messages()


def test_threads_of_the_handler_do_not_keep_it_alive(start: Start) -> None:
    source = """
        import threading, time

        class Handler:
            def __init__(self, config):
                threading.Thread(target=time.sleep, args=(1000,)).start()

            def handle_get(self):
                return "here"
    """
    replica = start(source)
    assert replica.stop(within=9) == 0


def test_its_workers_do_not_outlive_it(start: Start) -> None:
    replica = start(ECHO, processes=2)
    workers = replica.family()[1:]
    assert len(workers) == 2
    replica.signal(signal.SIGKILL)
    replica.wait()
    psutil.wait_procs(workers, timeout=2)
    assert not any(worker.is_running() for worker in workers)
    with socket.create_server(("127.0.0.1", replica.port)):
        pass  # nobody listens there any more


def test_a_port_in_use_is_said(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(NeverStarted, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            start(ECHO, worker_ports=[port])


def test_variables_of_spec_and_dotenv_reach_the_handler(start: Start) -> None:
    source = """
        import os

        class Handler:
            def __init__(self, config):
                pass

            def handle_get(self):
                names = ("A", "B", "CORTEX_KIND", "CORTEX_PROJECT_DIR", "CORTEX_SERVING_PORT")
                return {name: os.environ[name] for name in names}
    """
    replica = start(source, env={"A": "spec", "B": "spec"}, files={".env": 'B="$A and dotenv"\n'})
    answer = json.loads(replica.request("GET")[1])
    project = str(replica.log_file.parent.parent / "project")
    assert answer == {
        "A": "spec",
        "B": "spec and dotenv",
        "CORTEX_KIND": "RealtimeAPI",
        "CORTEX_PROJECT_DIR": project,
        "CORTEX_SERVING_PORT": str(replica.port),
    }


@contextmanager
def in_flight(replica: RunningReplica) -> Iterator[None]:
    """A request is, for as long as the block runs and the replica lets it."""
    with replica.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        until(lambda: replica.metric("cortex_in_flight_requests") == 1)
        yield


def _read_all(connection: socket.socket) -> bytes:
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_processes_that_the_handler_forks_end_alone(start: Start, keyword: str) -> None:
    source = f"""
        import multiprocessing, os, time

        FORK = multiprocessing.get_context("fork")

        class Handler:
            def __init__(self, config):
                pass

            {keyword} handle_get(self):
                child = FORK.Process(target=time.sleep, args=(60,))
                child.start()
                child.terminate()
                child.join(10)
                ended = child.exitcode
                child.kill()
                return [os.getpid(), ended]
    """
    replica = start(source)
    for _ in range(3):
        status, body = replica.request("GET")
        assert (status, json.loads(body)) == (200, [*replica.worker_pids(), -signal.SIGTERM])
    assert not [line for line in replica.log() if "started again" in line["message"]]
    assert replica.stop() == 0
