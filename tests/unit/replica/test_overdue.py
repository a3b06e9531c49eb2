from __future__ import annotations

from math import inf

import pytest

from cortex_serve.overdue import (
    ABORT_WITHIN,
    ANSWER_WITHIN,
    HANG_UP_WITHIN,
    OVERSTAY,
    SILENCE,
    SILENCE_LIMIT,
    SILENCE_SHOWN,
    Limits,
    Watch,
)

REPORTS = 0.5
"""Seconds between the reports of a worker that is well."""


class Worker:
    """A worker in time that only passes here.

    Attributes:
        steps: what it was decided to do about it, and when.
        hears: whether it answers and reports.
        call: when its longest call began.
    """

    def __init__(self, *, request: float, load: float = 0.0) -> None:
        self.now = 1000.0
        self.hears = True
        self.loading = False
        self.call: float | None = None
        self.steps: list[tuple[float, str]] = []
        self.watch = Watch(Limits(request=request, load=load), now=self.now)
        self._report_at = self.now + REPORTS

    def live(self, seconds: float) -> None:
        end = self.now + seconds
        while (at := min(self.watch.due, self._report_at if self.hears else inf)) <= end:
            self.now = max(self.now, at)
            if self.hears and self.now >= self._report_at:
                self.report()
            self.look()
        self.now = end

    def look(self) -> None:
        step = self.watch.look(self.now)
        if step is not None:
            self.steps.append((self.now, step))
        if step == "ask" and self.hears:
            self.report()

    def report(self) -> None:
        self.watch.reported(self.now - self.call if self.call is not None else None, now=self.now)
        self.watch.heard(now=self.now, loading=self.loading)
        self._report_at = self.now + REPORTS

    def when(self, step: str) -> list[float]:
        return [at for at, each in self.steps if each == step]


@pytest.mark.parametrize("request_timeout", [1.0, 30.0, 3600.0])
def test_a_worker_that_reports_is_left_alone(request_timeout: float) -> None:
    worker = Worker(request=request_timeout)
    worker.live(3 * SILENCE_LIMIT)
    assert worker.steps == []


@pytest.mark.parametrize("late", [0.0, 0.2, 0.49])
@pytest.mark.parametrize("request_timeout", [1.0, 30.0, 3600.0])
def test_a_call_that_overstays_ends_its_worker_within_a_second(request_timeout: float, late: float) -> None:
    worker = Worker(request=request_timeout)
    worker.live(late)
    began = worker.call = worker.now
    worker.live(request_timeout + 5)
    [aborted] = worker.when("give up")
    assert OVERSTAY <= aborted - began - request_timeout < 1
    assert worker.watch.reason is not None
    assert worker.watch.reason.startswith(f"a call of the handler has run for {aborted - began:.1f} s; ")
    assert worker.watch.reason.endswith(f"the limit is request_timeout: {request_timeout:g}s")


def test_a_call_that_ends_in_time_is_none_of_our_business() -> None:
    worker = Worker(request=2.0)
    for _ in range(10):
        worker.call = worker.now
        worker.live(2.3)
        worker.call = None
        worker.live(0.1)
    assert not worker.when("give up")


def test_calls_in_a_row_are_not_one_long_call() -> None:
    worker = Worker(request=1.0)
    for _ in range(20):
        worker.call = worker.now
        worker.live(0.9)
    assert not worker.when("give up")


@pytest.mark.parametrize("since_report", [0.0, 0.25, 0.49])
@pytest.mark.parametrize("request_timeout", [1.0, 30.0, 200.0])
def test_what_holds_the_lock_ends_its_worker_within_a_second(
    request_timeout: float, since_report: float
) -> None:
    worker = Worker(request=request_timeout)
    worker.live(REPORTS + since_report)
    worker.hears = False
    began = worker.now
    worker.live(request_timeout + 5)
    [aborted] = worker.when("give up")
    assert 0 < aborted - began - request_timeout < 1
    assert "holds the interpreter's lock" in (worker.watch.reason or "")


def test_a_long_limit_does_not_make_silence_longer() -> None:
    worker = Worker(request=3600.0)
    worker.hears = False
    began = worker.now
    worker.live(2 * SILENCE_LIMIT)
    assert worker.when("give up") == [began + SILENCE_LIMIT]
    assert (worker.watch.reason or "").endswith("; the limit is 300 s")


def test_silence_is_told_once_and_again_when_it_is_broken() -> None:
    worker = Worker(request=3600.0)
    for _ in range(2):
        worker.hears = False
        worker.live(100)
        worker.hears = True
        worker.report()
    assert worker.when("warn") == [1000 + SILENCE_SHOWN, 1100 + SILENCE_SHOWN]


def test_who_loads_a_model_may_be_silent_for_as_long_as_a_load_may_take() -> None:
    worker = Worker(request=1.0, load=60.0)
    worker.loading = True
    worker.report()
    worker.hears = False
    began = worker.now
    worker.live(60)
    assert not worker.when("give up")
    worker.live(60)
    assert worker.when("give up") == [began + 60 + SILENCE]


def test_a_load_that_takes_longer_than_a_request_may_excuses_no_call() -> None:
    worker = Worker(request=1.0, load=60.0)
    worker.loading = True
    worker.call = worker.now
    worker.live(5)
    assert worker.when("give up") == [1001 + OVERSTAY]


def test_who_was_told_to_end_may_be_silent_but_must_not_overstay() -> None:
    worker = Worker(request=1.0)
    worker.call = worker.now
    worker.watch.leaves(now=worker.now)
    worker.live(0.1)
    worker.hears = False
    worker.call = None
    worker.live(2 * SILENCE_LIMIT)
    assert not worker.when("give up")
    assert not worker.when("warn")

    another = Worker(request=1.0)
    another.call = another.now
    another.watch.leaves(now=another.now)
    another.live(5)
    assert another.when("give up") == [1001 + OVERSTAY]


def test_after_a_pause_of_the_machine_everybody_is_asked_first() -> None:
    worker = Worker(request=30.0)
    worker.live(10)
    worker.now += 3600
    worker.look()
    assert [step for _, step in worker.steps] == ["ask"]
    worker.live(100)
    assert not worker.when("give up")


def test_after_a_pause_who_does_not_answer_has_hung() -> None:
    worker = Worker(request=30.0)
    worker.hears = False
    worker.now += 3600
    asked = worker.now
    worker.look()
    worker.live(100)
    assert worker.when("give up") == [asked + ANSWER_WITHIN]


def test_who_is_not_gone_soon_is_killed_once() -> None:
    worker = Worker(request=1.0)
    worker.hears = False
    worker.live(100)
    [given_up] = worker.when("give up")
    assert worker.when("abort") == [given_up + HANG_UP_WITHIN]
    assert worker.when("kill") == [given_up + HANG_UP_WITHIN + ABORT_WITHIN]
    assert worker.watch.due == inf
