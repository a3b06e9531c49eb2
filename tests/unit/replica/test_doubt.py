from __future__ import annotations

from collections.abc import Callable

import pytest

from cortex_serve.doubt import AGAIN, CANCELLED_WITHIN, EARLY, Doubt, Pulse

LIMIT = 2.0


class Loop:
    """An event loop that answers when it goes on."""

    def __init__(self) -> None:
        self.goes_on = True
        self.waiting: list[Callable[[], None]] = []

    def call_soon(self, function: Callable[[], None]) -> None:
        self.waiting.append(function)

    def turn(self) -> None:
        while self.goes_on and self.waiting:
            self.waiting.pop()()


class Worker:
    """A worker whose only call is `call` seconds old.

    Attributes:
        on_thread: whether that is a plain method, on a thread of its own.
        told: what was done about newcomers.
    """

    def __init__(self, *, loop: Loop | None = None) -> None:
        self.call: float | None = None
        self.on_thread = loop is None
        self.told: list[str] = []
        self.doubt = Doubt(
            LIMIT,
            pulse=Pulse(loop.call_soon) if loop is not None else None,
            oldest_call=lambda: self.call,
            oldest_on_thread=lambda: self.call if self.on_thread else None,
            turn_away=lambda: self.told.append("turn away"),
            let_in=lambda: self.told.append("let in"),
        )


def test_nobody_is_let_in_from_the_moment_on_in_which_a_call_may_hang() -> None:
    worker = Worker()
    worker.call = 0.5
    assert worker.doubt.look() == pytest.approx(LIMIT - EARLY - 0.5)
    assert worker.told == []
    worker.call = LIMIT - EARLY
    assert worker.doubt.look() == AGAIN
    worker.call += AGAIN
    assert worker.doubt.look() == AGAIN
    assert worker.told == ["turn away"]


@pytest.mark.parametrize("next_call", [None, 0.0, 1.0])
def test_a_call_that_ends_after_all_opens_the_door(next_call: float | None) -> None:
    worker = Worker()
    worker.call = LIMIT
    worker.doubt.look()
    worker.call = next_call
    assert worker.doubt.look() > AGAIN
    assert worker.told == ["turn away", "let in"]


def test_no_call_is_long_before_it_is_looked_at_again() -> None:
    assert Worker().doubt.look() == LIMIT - EARLY


def test_a_coroutine_that_waits_is_no_reason_for_doubt() -> None:
    loop = Loop()
    worker = Worker(loop=loop)
    worker.call = LIMIT - EARLY
    while worker.call < LIMIT + CANCELLED_WITHIN / 2:
        assert worker.doubt.look() == AGAIN
        loop.turn()
        worker.call += AGAIN
    assert worker.told == []


def test_a_thread_is_one_though_the_loop_beside_it_goes_on() -> None:
    loop = Loop()
    worker = Worker(loop=loop)
    worker.on_thread = True
    worker.call = LIMIT - EARLY
    worker.doubt.look()
    loop.turn()
    assert worker.told == ["turn away"]
    worker.call = 0.0
    worker.doubt.look()
    assert worker.told == ["turn away", "let in"]


def test_a_coroutine_that_is_not_cancelled_is_one() -> None:
    loop = Loop()
    worker = Worker(loop=loop)
    worker.call = LIMIT + CANCELLED_WITHIN
    worker.doubt.look()
    assert worker.told == ["turn away"]


def test_a_loop_that_stands_still_is_one_until_it_goes_on() -> None:
    loop = Loop()
    worker = Worker(loop=loop)
    worker.call = LIMIT - EARLY
    loop.goes_on = False
    worker.doubt.look()
    loop.turn()
    assert worker.told == []
    for _ in range(3):
        worker.call += AGAIN
        worker.doubt.look()
    assert worker.told == ["turn away"]
    assert len(loop.waiting) == 1
    loop.goes_on = True
    loop.turn()
    worker.doubt.look()
    assert worker.told == ["turn away", "let in"]


def test_a_loop_that_has_ended_is_one() -> None:
    def ended(_: Callable[[], None]) -> None:
        raise RuntimeError("Event loop is closed")

    pulse = Pulse(ended)
    assert [pulse.is_missing(), pulse.is_missing()] == [False, True]
