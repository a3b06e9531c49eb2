from __future__ import annotations

import asyncio
import threading

import pytest

from cortex_serve.rpc.threads import HandlerThreads, Wakeups


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
