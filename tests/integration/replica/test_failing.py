"""Handlers that cannot be loaded, workers that die."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable

import psutil
import pytest
from support.replicas import ECHO, RunningReplica, until

from cortex_core.runtime import EXIT_HANDLER_FAILED

Start = Callable[..., RunningReplica]

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
PID = """
    import os

    class Handler:
        def __init__(self, config):
            pass

        def handle_get(self):
            return str(os.getpid())
"""


@pytest.mark.parametrize(
    ("source", "last_words"),
    [
        ("import not_there", "ModuleNotFoundError: No module named 'not_there'"),
        ("def broken(:", "SyntaxError: "),
        (
            "class Handler:\n  def __init__(self, config):\n    1 / 0\n  def handle_get(self): pass",
            "ZeroDivisionError: division by zero",
        ),
    ],
)
def test_a_handler_that_cannot_be_loaded_ends_the_replica(start: Start, source: str, last_words: str) -> None:
    replica = start(source, processes=2, wait=False)
    assert replica.wait() == EXIT_HANDLER_FAILED
    [failure, *_] = [line for line in replica.log() if line["message"] == "the handler cannot be loaded"]
    assert failure["levelname"] == "ERROR"
    assert "handler.py" in failure["exc_info"]
    assert last_words in failure["exc_info"]
    assert "cortex_serve" not in failure["exc_info"]


@pytest.mark.parametrize(
    ("statement", "how"),
    [
        ("os._exit(0)", "exited with status 0"),
        ("os.kill(os.getpid(), 9)", "was killed by SIGKILL"),
        ("__import__('faulthandler')._sigsegv()", "was killed by SIGSEGV"),
    ],
)
def test_a_worker_that_dies_while_it_starts_ends_the_replica(start: Start, statement: str, how: str) -> None:
    replica = start(f"import os\nprint('last words')\n{statement}", wait=False)
    assert replica.wait() == EXIT_HANDLER_FAILED
    messages = replica.messages()
    assert "last words" in messages
    assert any(message.endswith(f"{how} before it was ready") for message in messages)


def test_what_the_interpreter_says_of_a_crash_is_in_the_log(start: Start) -> None:
    replica = start("import faulthandler; faulthandler._sigsegv()", wait=False)
    replica.wait()
    crash = next(
        line for line in replica.log() if line["message"] == "Fatal Python error: Segmentation fault"
    )
    assert crash["levelname"] == "ERROR"


def test_an_unreadable_dotenv_ends_the_replica(start: Start) -> None:
    replica = start(ECHO, files={".env": "A='never closed\n"}, wait=False)
    assert replica.wait() == EXIT_HANDLER_FAILED
    assert replica.messages()[-1].startswith(".env ")


def test_a_killed_worker_is_replaced_and_the_others_notice_nothing(start: Start) -> None:
    replica = start(PID, processes=2, share=True)
    victim, survivor = replica.worker_pids()
    connections = {pid: _connected_to(replica, pid) for pid in (victim, survivor)}
    with connections[victim], connections[survivor]:
        os.kill(victim, signal.SIGKILL)
        assert connections[victim].recv(1024) == b""
        for _ in range(20):
            assert _ask(connections[survivor]) == survivor
            assert replica.request("GET")[0] == 200
            assert replica.ready()
    until(lambda: len(set(replica.worker_pids()) - {victim}) == 2, within=3)
    assert replica.metric("cortex_worker_restarts_total") == 1
    assert any(m.endswith("was killed by SIGKILL; it is started again") for m in replica.messages())


def test_deaths_that_are_noticed_together_are_both_made_good(start: Start) -> None:
    replica = start(PID, processes=3)
    before = set(replica.worker_pids())
    replica.signal(signal.SIGSTOP)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    for pid in before:
        until(lambda dead=pid: psutil.Process(dead).status() == psutil.STATUS_ZOMBIE)
    replica.signal(signal.SIGCONT)
    until(lambda: len(set(replica.worker_pids()) - before) == 3)
    assert replica.request("GET")[0] == 200
    assert replica.stop() == 0


def test_connections_wait_for_the_only_worker(start: Start) -> None:
    replica = start(PID)
    [victim] = replica.worker_pids()
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in replica.worker_pids())
    status, body = replica.request("GET")
    assert status == 200
    assert int(body) != victim


@pytest.mark.parametrize("share", [False, True], ids=["own ports", "one port"])
def test_only_requests_in_flight_on_killed_workers_are_lost(start: Start, share: bool) -> None:
    """Clients with kept-alive connections try again on a new one when theirs was cut."""
    replica = start(PID, processes=2, share=share)
    supervisor = psutil.Process(replica.process.pid)
    descriptors = _settled_descriptors(supervisor)
    lost, answered, failures = [0] * 4, [0] * 4, []
    done = threading.Event()

    def ask_again_and_again(number: int) -> None:
        connection = _connected(replica)
        while not done.is_set():
            try:
                _ask(connection)
                answered[number] += 1
            except ConnectionError:
                lost[number] += 1
                connection.close()
                connection = _connected(replica)
            except Exception as error:
                failures.append(error)
                raise
        connection.close()

    clients = [threading.Thread(target=ask_again_and_again, args=(number,)) for number in range(4)]
    for client in clients:
        client.start()
    kills = 5
    for _ in range(kills):
        victim = until(replica.worker_pids)[0]
        os.kill(victim, signal.SIGKILL)
        until(lambda killed=victim: killed not in replica.worker_pids())
        until(lambda: len(replica.worker_pids()) == 2)
    done.set()
    for client in clients:
        client.join()
    assert not failures
    assert sum(lost) <= kills * len(clients)
    assert sum(answered) > 100
    counted = replica.metric("cortex_status_code_total")
    assert counted <= sum(answered) + sum(lost)
    until(lambda: _settled_descriptors(supervisor) == descriptors)


def test_a_worker_that_dies_again_and_again_is_started_ever_later(start: Start) -> None:
    source = """
        import os

        class Handler:
            def __init__(self, config):
                if os.path.exists("broken"):
                    os._exit(7)

            def handle_get(self):
                open("broken", "w").close()
                os._exit(8)
    """
    replica = start(source)
    with replica.connect() as connection:
        connection.sendall(GET)
        assert connection.recv(1024) == b""
    until(lambda: replica.metric("cortex_worker_restarts_total") >= 4)
    assert _reasons(replica) == ["no worker is ready"]
    waits = [m.rpartition("; ")[2] for m in replica.messages() if "; it is started again" in m]
    assert waits[:4] == [
        "it is started again",
        "it is started again in 0.1 s",
        "it is started again in 0.2 s",
        "it is started again in 0.4 s",
    ]
    (replica.log_file.parent.parent / "project" / "broken").unlink()
    until(replica.ready)


def test_counters_never_go_back(start: Start) -> None:
    replica = start(PID)
    for _ in range(3):
        replica.request("GET")
    assert replica.metric("cortex_status_code_total") == 3
    [victim] = replica.worker_pids()
    os.kill(victim, signal.SIGKILL)
    until(lambda: replica.worker_pids() not in ([], [victim]))
    assert replica.metric("cortex_status_code_total") == 3
    assert replica.metric("cortex_in_flight_requests") == 0
    replica.request("GET")
    assert replica.metric("cortex_status_code_total") == 4
    assert replica.metric("cortex_latency_count") == 4


def _reasons(replica: RunningReplica) -> list[str]:
    reasons: list[str] = json.loads(replica.admin("/readyz")[1])["reasons"]
    return reasons


def _settled_descriptors(supervisor: psutil.Process) -> int:
    """How many it has once it has closed the connections of all who asked for its health."""
    until(lambda: {each.status for each in supervisor.net_connections("inet")} == {psutil.CONN_LISTEN})
    return supervisor.num_fds()


def _connected(replica: RunningReplica) -> socket.socket:
    """A connection to a worker that does not refuse it, as a gateway makes one."""

    def attempt() -> socket.socket | None:
        try:
            return replica.connect()
        except ConnectionRefusedError:
            return None

    connection: socket.socket = until(attempt)
    return connection


def _connected_to(replica: RunningReplica, pid: int) -> socket.socket:
    while True:
        connection = replica.connect()
        if _ask(connection) == pid:
            return connection
        connection.close()


def _ask(connection: socket.socket) -> int:
    """One request on a kept-alive connection; the pid that answered."""
    connection.sendall(GET)
    answer = connection.recv(4096)
    if not answer:
        raise ConnectionResetError("closed without an answer")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    while not body:
        body = connection.recv(4096)
    return int(body)
