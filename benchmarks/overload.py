"""Five times the capacity through the gateway, by `support.overload`, and what it does to memory."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cores import LOAD, SERVER, on_core
from support.installation import Installation
from support.overload import CAPACITY, QUEUE, SERVICE, Result, deployed
from support.overload import overload as overload_of

WARM_UP = 5.0


@dataclass(frozen=True, kw_only=True)
class Overload:
    """Attributes:
    rss_before, rss_after: bytes of all processes of the installation, after a warm-up of the same load and in the end.
    bound: seconds that an accepted request may take: service and queue.
    """

    result: Result
    seconds: float
    capacity: float
    rss_before: int
    rss_after: int
    bound: float


def run(*, seconds: float, folder: Path) -> Overload:
    with ExitStack() as stack:
        with on_core(SERVER):
            cortex = stack.enter_context(deployed(folder))
        with on_core(LOAD):
            overload_of(cortex, seconds=WARM_UP)
            before = _rss(cortex)
            result = overload_of(cortex, seconds=seconds)
            after = _rss(cortex)
    return Overload(
        result=result,
        seconds=seconds,
        capacity=CAPACITY,
        rss_before=before,
        rss_after=after,
        bound=SERVICE + QUEUE,
    )


def _rss(cortex: Installation) -> int:
    return sum(process.memory_info().rss for process in cortex.processes())
