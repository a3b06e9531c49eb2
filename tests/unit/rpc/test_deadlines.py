from __future__ import annotations

import asyncio

from cortex_serve.rpc.deadlines import Deadlines

SECONDS = 0.02


def test_what_is_not_over_in_time_is_late_in_its_order_and_not_before() -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        began: dict[str, float] = {}
        late: list[str] = []
        all_late = asyncio.Event()

        def note(name: str) -> None:
            assert loop.time() >= began[name] + SECONDS
            late.append(name)
            if name == "last":
                all_late.set()

        def begin(name: str) -> None:
            began[name] = loop.time()
            deadlines.begin(name)

        deadlines = Deadlines(loop, SECONDS, note)
        for name in ("first", "over", "second"):
            begin(name)
        deadlines.end("over")
        await asyncio.sleep(SECONDS / 2)
        begin("third")
        while "third" not in late:
            await asyncio.sleep(0.001)
        begin("over, too")
        deadlines.end("over, too")
        begin("last")
        await asyncio.wait_for(all_late.wait(), 10)
        deadlines.end("last")
        return late

    assert asyncio.run(main()) == ["first", "second", "third", "last"]


def test_all_that_is_late_at_once() -> None:
    async def main() -> None:
        late: list[int] = []
        deadlines = Deadlines(asyncio.get_running_loop(), SECONDS, late.append)
        for number in range(5):
            deadlines.begin(number)
        while len(late) < 5:
            await asyncio.sleep(0.001)
        assert late == list(range(5))

    asyncio.run(asyncio.wait_for(main(), 10))
