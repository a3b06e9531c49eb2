from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from cortex_serve.rpc.threads import HandlerThreads, Handover, Wakeups


def test_work_is_begun_in_order_on_so_many_threads() -> None:
    threads = HandlerThreads(2)
    idents = {threads.result(threading.get_ident) for _ in range(20)}
    assert 1 <= len(idents) <= 2
    assert threading.get_ident() not in idents
    single = HandlerThreads(1)
    done: list[int] = []
    for number in range(100):
        single.start(lambda number=number: done.append(number))
    assert single.result(lambda: list(done)) == list(range(100))
    threads.close()
    single.close()


def test_what_is_raised_is_raised_where_it_is_waited_for() -> None:
    threads = HandlerThreads(1)
    with pytest.raises(SystemExit, match="enough"):
        threads.result(exit, "enough")
    assert threads.result(int, "5") == 5
    threads.close()


def test_calls_from_threads_reach_the_loop_in_order() -> None:
    async def main() -> list[int]:
        wakeups = Wakeups(asyncio.get_running_loop())
        came: list[int] = []
        all_came = asyncio.Event()

        def come(number: int) -> None:
            came.append(number)
            if number == 999:
                all_came.set()

        thread = threading.Thread(target=lambda: [wakeups.call(come, number) for number in range(1000)])
        thread.start()
        await asyncio.wait_for(all_came.wait(), 10)
        thread.join()
        return came

    assert asyncio.run(main()) == list(range(1000))


class FakeLoop:
    """An event loop whose turns and time the test makes."""

    def __init__(self) -> None:
        self.now = 0.0
        self._soon: list[Callable[[], object]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], object]) -> None:
        self._soon.append(callback)

    def turn(self, seconds: float) -> bool:
        """Whether there was anything to do."""
        soon, self._soon = self._soon, []
        self.now += seconds
        for callback in soon:
            callback()
        return bool(soon)


def handed_over(*, turn: float, calls: int, turns_between: int, are_alone: bool = False) -> list[list[int]]:
    """The calls that each hand-over brought, when a turn of the loop takes `turn` seconds."""
    loop: Any = FakeLoop()
    brought: list[list[int]] = [[]]
    handover = Handover(loop, lambda work: work())
    for number in range(calls):
        handover.start(lambda number=number: brought[-1].append(number), is_alone=are_alone)
        if are_alone and brought[-1]:
            brought.append([])
        for _ in range(turns_between):
            loop.turn(turn)
            if brought[-1]:
                brought.append([])
    while loop.turn(turn):
        pass
    return [each for each in brought if each]


def test_calls_that_come_one_after_the_other_are_handed_over_together() -> None:
    assert handed_over(turn=0.00001, calls=5, turns_between=4) == [[0, 1, 2, 3, 4]]
    assert handed_over(turn=0.00001, calls=3, turns_between=20) == [[0], [1], [2]]


def test_a_call_does_not_wait_for_others_while_the_loop_is_slow() -> None:
    assert handed_over(turn=0.005, calls=3, turns_between=1) == [[0], [1], [2]]
    assert handed_over(turn=0.0009, calls=6, turns_between=1) == [[0, 1, 2], [3, 4, 5]]


def test_who_is_alone_again_is_handed_over_at_once() -> None:
    assert handed_over(turn=0.00001, calls=3, turns_between=0, are_alone=True) == [[0], [1], [2]]


def test_who_is_alone_after_others_waits_for_others_once() -> None:
    loop: Any = FakeLoop()
    brought: list[int] = []
    handover = Handover(loop, lambda work: work())

    def start(number: int, *, is_alone: bool) -> None:
        handover.start(lambda: brought.append(number), is_alone=is_alone)

    start(0, is_alone=True)
    start(1, is_alone=False)
    start(2, is_alone=False)
    assert brought == [0]
    while loop.turn(0.00001):
        pass
    assert brought == [0, 1, 2]
    start(3, is_alone=True)
    assert brought == [0, 1, 2]
    while loop.turn(0.00001):
        pass
    start(4, is_alone=True)
    assert brought == [0, 1, 2, 3, 4]
