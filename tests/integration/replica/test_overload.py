"""Health, readiness and metrics while the workers have far more to do than they can."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from statistics import median

import pytest
from support.replicas import RunningReplica, until

Start = Callable[..., RunningReplica]

BUSY = """
    import hashlib, time

    class Handler:
        def __init__(self, config):
            pass

        def handle_get(self):
            end = time.monotonic() + 0.05
            {work}
            return "done"
"""
PATHS = ("/healthz", "/readyz", "/metrics")
WORKS = {
    "threads compete for the lock": "while time.monotonic() < end: pass",
    "the lock is held": "time.monotonic() < end and sum(range(8_000_000))",
}


@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
def test_questions_about_it_are_answered_at_once(start: Start, work: str) -> None:
    threads, times_its_capacity = 2, 5
    replica = start(BUSY.format(work=work), threads=threads)
    over = threading.Event()
    answered = []

    def ask_again_and_again() -> None:
        while not over.is_set():
            answered.append(replica.request("GET")[0])

    clients = [threading.Thread(target=ask_again_and_again) for _ in range(threads * times_its_capacity)]
    for client in clients:
        client.start()
    try:
        until(lambda: len(answered) > len(clients))
        took = {path: [_seconds(replica, path) for _ in range(9)] for path in PATHS}
    finally:
        over.set()
        for client in clients:
            client.join()
    assert set(answered) == {200}
    assert all(median(seconds) < 0.1 and max(seconds) < 1 for seconds in took.values()), took


def _seconds(replica: RunningReplica, path: str) -> float:
    began = time.monotonic()
    assert replica.admin(path)[0] == 200
    return time.monotonic() - began
