"""Replicas are replaced, and their workers killed, in the middle of a storm of requests (C-75, C-76).

What is replaced loses nothing. What is killed takes with it what it had in hand, and its clients are
told so; nothing is ever executed twice.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator

import psutil
import pytest
from support.installation import Installation, wait_for
from support.replica_admin import ready_workers
from support.request_storm import CONNECTIONS, Target, Way, target

SEED = random.randrange(10_000)

IN_FLIGHT = 200
"""Most of them wait for a thread."""

PROCESSES = 2
THREADS = 4

ENDING = 0.05
"""Seconds that a killed process may take to be gone."""

TOLD = 0.5
"""Seconds after which everyone has been told that what it asked is lost."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    way = Way(processes=PROCESSES, threads=THREADS, gateway=True)
    with target(way, tmp_path_factory.mktemp("storm")) as served:
        yield served


@pytest.fixture
def cortex(served: Target) -> Installation:
    assert served.cortex is not None
    return served.cortex


def started_as(cortex: Installation, module: str) -> list[psutil.Process]:
    """Processes of this home that run a module."""
    found = []
    for process in cortex.processes():
        try:
            if module in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def others_ready(cortex: Installation, victim: int) -> bool:
    """Whether there are as many workers as there shall be, without that one."""
    return len(ready_workers(cortex, "storm") - {victim}) == PROCESSES


def test_redeploys_lose_nothing(served: Target, cortex: Installation) -> None:
    storm = served.storm(seed=SEED, connections=IN_FLIGHT, milliseconds=(0, 20, 40))
    with storm.raging():
        for _ in range(2):
            time.sleep(0.5)
            before = started_as(cortex, "cortex_serve")
            cortex.run("refresh", "storm")
            wait_for(
                lambda old=before: not any(map(psutil.Process.is_running, old)), within=20, what="old ends"
            )
    assert storm.verdict.problems == []
    assert storm.verdict.answered > 500


def test_a_killed_worker_takes_only_what_it_had(served: Target, cortex: Installation) -> None:
    killed = []
    storm = served.storm(seed=SEED, forgives=True, milliseconds=(0, 5, 50))
    with storm.raging():
        for _ in range(3):
            time.sleep(0.5)
            victim = random.choice(sorted(ready_workers(cortex, "storm")))
            killed.append(time.monotonic())
            os.kill(victim, signal.SIGKILL)
            wait_for(lambda victim=victim: others_ready(cortex, victim), within=2, what="full capacity")
    assert storm.verdict.problems == []
    assert len(storm.verdict.lost) <= len(killed) * CONNECTIONS
    for made, told in storm.verdict.lost:
        kill = max(at for at in killed if at < told)
        assert made < kill + ENDING, "sent to a worker that was dead"
        assert told < kill + TOLD
