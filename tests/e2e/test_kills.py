"""`kill -9` of anything, under load: back at full strength soon, and only what was in flight there is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import psutil
import pytest
from support.installation import Installation, wait_for
from support.load import Load
from support.projects import write_versioned

CONNECTIONS = 8
RECOVERY = 3.0
"""Seconds after which the API has to be at full strength again."""

LOSSES_END = 0.5
"""Seconds after a kill from which on nothing is lost any more."""


@pytest.fixture(scope="module")
def served(cortex: Installation, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder = tmp_path_factory.mktemp("project")
    write_versioned(folder, version="1", processes=2)
    cortex.run("deploy", "--yes", cwd=folder)
    return cortex


@pytest.fixture
def load(served: Installation) -> Iterator[Load]:
    running = Load(served.url("counted"), connections=CONNECTIONS)
    running.start()
    wait_for(lambda: running.so_far().answers > 100, within=10, what="load")
    yield running
    running.stop()


def role(process: psutil.Process) -> str:
    """Which part of an installation a process is."""
    words = " ".join(process.cmdline())
    for name, marker in (
        ("operator", "cortex_operator"),
        ("worker", "cortex_serve.worker"),
        ("supervisor", "cortex_serve"),
        ("gateway", "envoy"),
    ):
        if marker in words:
            return name
    return "other"


def of_role(served: Installation, name: str) -> list[psutil.Process]:
    found = []
    for process in served.processes():
        try:
            if role(process) == name:
                found.append(process)
        except psutil.Error:
            continue
    return found


def full_strength(served: Installation, load: Load) -> bool:
    """Two workers, one supervisor, one gateway, and an answer to each connection."""
    counts = {name: len(of_role(served, name)) for name in ("worker", "supervisor", "gateway")}
    return counts == {"worker": 2, "supervisor": 1, "gateway": 1} and answering(load)


def answering(load: Load) -> bool:
    before = load.so_far()
    time.sleep(0.1)
    after = load.so_far()
    return after.answers > before.answers and len(after.failures) == len(before.failures)


@pytest.mark.parametrize(("name", "dying"), [("worker", 1), ("supervisor", 2), ("gateway", 1)])
def test_killed_process_is_back_and_costs_only_what_was_in_flight(
    served: Installation, load: Load, name: str, dying: int
) -> None:
    """`dying`: how many processes that serve requests end with it, one after the other."""
    victim = of_role(served, name)[0]
    killed_at = time.monotonic()
    os.kill(victim.pid, signal.SIGKILL)
    wait_for(
        lambda: not victim.is_running() and full_strength(served, load),
        within=RECOVERY,
        what=f"{name} is back",
    )
    report = load.stop()
    print(
        f"{name}: back after {time.monotonic() - killed_at:.2f} s, {len(report.failures)} of {report.answers} lost"
    )
    # A killed process takes some milliseconds to close its sockets. Who lost a request to it and sends the next one
    # at once may meet it, or the next that dies, once more, and then that one was in flight on it, too.
    assert len(report.failures) <= (1 + dying) * CONNECTIONS, report.failures
    assert all(begun < killed_at + LOSSES_END for begun in report.failure_times), report.failures


def test_killed_operator_is_not_missed_and_the_next_one_adopts_all(served: Installation, load: Load) -> None:
    before = {process.pid for process in served.processes() if role(process) != "operator"}
    (operator,) = of_role(served, "operator")
    os.kill(operator.pid, signal.SIGKILL)
    wait_for(lambda: not operator.is_running(), within=5, what="operator is dead")
    assert answering(load)

    status = served.api("counted")["status"]["status_code"]

    assert status == "status_live"
    assert {process.pid for process in served.processes() if role(process) != "operator"} == before
    assert load.stop().failures == []


def test_a_killed_operator_leaves_nothing_that_down_does_not_end(served: Installation) -> None:
    (operator,) = of_role(served, "operator")
    os.kill(operator.pid, signal.SIGKILL)
    wait_for(lambda: not operator.is_running(), within=5, what="operator is dead")
    served.down()
