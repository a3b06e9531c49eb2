from __future__ import annotations

from math import inf

import pytest

from cortex_serve.doubt import AGAIN, CANCELLED_WITHIN, EARLY, Doubt

LIMIT = 2.0


class Worker:
    """A worker whose only call is `call` seconds old.

    Attributes:
        told: what the kernel was told about new connections.
    """

    def __init__(self, *, cancels: bool = False) -> None:
        self.call: float | None = None
        self.told: list[str] = []
        self.doubt = Doubt(
            LIMIT,
            cancels=cancels,
            oldest_call=lambda: self.call,
            turn_away=lambda: self.told.append("turn away"),
            let_in=lambda: self.told.append("let in"),
        )


@pytest.mark.parametrize(
    ("cancels", "bearable"),
    [(False, LIMIT - EARLY), (True, LIMIT + CANCELLED_WITHIN)],
    ids=["thread", "coroutine"],
)
def test_nobody_is_let_in_from_the_moment_on_in_which_a_call_may_hang(cancels: bool, bearable: float) -> None:
    worker = Worker(cancels=cancels)
    worker.call = 0.5
    assert worker.doubt.look() == pytest.approx(bearable - 0.5)
    assert worker.told == []
    worker.call = bearable
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


def test_without_a_call_there_is_nothing_to_wait_for() -> None:
    assert Worker().doubt.look() == inf
