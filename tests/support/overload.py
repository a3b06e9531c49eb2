"""Five times as many requests as an API can answer, through the gateway, and what becomes of everyone.

    PYTHONPATH=tests python -m support.overload --seconds 60

The handler sleeps, so its capacity is known: threads ÷ seconds a call. What is beyond capacity and queue has to be
refused at once and politely, the rest answered as if nothing were, and all be well as soon as the load is less.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from support import projects
from support.installation import Installation
from support.open_loop import OpenLoop, Outcome, share, statuses
from support.raw_http import Answer, head, whole
from support.replica_admin import admin_address
from support.resources import MIB, Resources

THREADS = 4
SERVICE = 0.02
"""Seconds a call takes."""
LIMIT = 16
"""Requests that may be there at a time."""
CAPACITY = THREADS / SERVICE
QUEUE = SERVICE * LIMIT / THREADS
"""Seconds that the last one who is let in waits for its answer."""

HANDLER = """
import time


class Handler:
    def __init__(self, config):
        self.seconds = config["seconds"]

    def handle_post(self, payload):
        time.sleep(self.seconds)
        return payload
"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """Seconds, unless told otherwise.

    Attributes:
        goodput: answers with 200 during the overload, by capacity.
        accepted_p99, rejected_p99: from when they were due.
        impolite: rejections that are not 503 with Retry-After and a JSON error.
        failed: requests without an answer, or with another one.
        recovery: after the overload, until nothing was refused any more.
        readiness_p99, other_p99: of `/readyz` and of another API meanwhile.
        unhealthy: of those, how many were not answered 200.
        lateness_p99: of the load itself; the other times include it.
        grown: what processes hold afterwards that they did not before.
    """

    sent: int
    accepted: int
    rejected: int
    goodput: float
    accepted_p99: float
    rejected_p99: float
    impolite: list[str]
    failed: list[str]
    recovery: float
    readiness_p99: float
    other_p99: float
    unhealthy: int
    lateness_p99: float
    grown: list[str]


APIS = f"""\
    config: {{seconds: {SERVICE}}}
  autoscaling:
    max_replica_concurrency: {LIMIT}
- name: other
  kind: RealtimeAPI
  handler:
    type: python
    path: handler.py
    config: {{seconds: 0}}
"""


def deployed(folder: Path) -> AbstractContextManager[Installation]:
    """The API `busy`, which gets too much, and `other`, in a home below a folder that exists."""
    return projects.deployed(folder, HANDLER, name="busy", threads=THREADS, more=APIS)


def overload(cortex: Installation, *, seconds: float, times: float = 5, warm_up: float = 1) -> Result:
    """Load `busy` with `times` its capacity for so long, then with 0.8 of it for 3 s."""
    resources = Resources(cortex.processes())
    return asyncio.run(_overload(cortex, seconds, times, warm_up, resources))


async def _overload(
    cortex: Installation, seconds: float, times: float, warm_up: float, resources: Resources
) -> Result:
    busy = OpenLoop(cortex.gateway, whole("/busy", b"payload"))
    other = OpenLoop(cortex.gateway, whole("/other", b"payload"))
    readiness = OpenLoop(admin_address(cortex, "busy"), head("/readyz", {}, method="GET"), keeps=False)
    await busy.send(CAPACITY * times, warm_up)
    held = resources.now()
    watching = [asyncio.ensure_future(each.send(25, seconds)) for each in (other, readiness)]
    began, ended = await busy.send(CAPACITY * times, seconds)
    await busy.send(CAPACITY * 0.8, 3)
    await asyncio.gather(*watching)
    for each in (busy, other, readiness):
        await each.finish()

    during = [outcome for outcome in busy.outcomes if began <= outcome.due < ended]
    good = [outcome for outcome in busy.outcomes if outcome.status == 200 and began <= outcome.ended < ended]
    rejected = [outcome for outcome in during if outcome.status == 503]
    refused_last = max((each.due for each in busy.outcomes if each.status != 200), default=ended)
    return Result(
        sent=len(during),
        accepted=statuses(during)[200],
        rejected=len(rejected),
        goodput=len(good) / (ended - began) / CAPACITY,
        accepted_p99=share([outcome for outcome in during if outcome.status == 200], 0.99),
        rejected_p99=share(rejected, 0.99),
        impolite=[str(each.answer) for each in rejected if each.answer and not _polite(each.answer)],
        failed=[f"{each.status} {each.failure}" for each in busy.outcomes if each.status not in (200, 503)],
        recovery=max(refused_last - ended, 0),
        readiness_p99=share(readiness.outcomes, 0.99),
        other_p99=share(other.outcomes, 0.99),
        unhealthy=sum(each.status != 200 for each in (*readiness.outcomes, *other.outcomes)),
        lateness_p99=share(busy.outcomes, 0.99, _lateness),
        grown=resources.grown(held, memory=24 * MIB, descriptors=LIMIT, threads=2),
    )


def _polite(answer: Answer) -> bool:
    says = json.loads(answer.body)
    return (
        answer.headers.get("retry-after", "").isdigit()
        and answer.headers.get("content-type", "").startswith("application/json")
        and says["code"] == "overloaded"
        and bool(says["message"])
    )


def _lateness(outcome: Outcome) -> float:
    return outcome.left - outcome.due


def attainable(cortex: Installation) -> float:
    """Requests a second that the load itself can send: to an API that answers at once, for two seconds."""

    async def send(rate: float) -> float:
        loop = OpenLoop(cortex.gateway, whole("/other", b"payload"))
        await loop.send(rate, 2)
        await loop.finish()
        return share(loop.outcomes, 0.99, _lateness)

    rate = 500.0
    while asyncio.run(send(rate * 1.5)) < 0.02:
        rate *= 1.5
    return rate


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--times", type=float, default=5, help="of capacity")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, deployed(Path(folder)) as cortex:
        print(
            f"the load can send {attainable(cortex):.0f}/s on time; capacity is {CAPACITY:.0f}/s", flush=True
        )
        tell(overload(cortex, seconds=options.seconds, times=options.times))
    return 0


def tell(result: Result) -> None:
    ms = {
        name: f"{getattr(result, name) * 1000:.0f} ms"
        for name in (
            "accepted_p99",
            "rejected_p99",
            "recovery",
            "readiness_p99",
            "other_p99",
            "lateness_p99",
        )
    }
    print(
        f"sent {result.sent:,}, accepted {result.accepted:,}, rejected {result.rejected:,}, failed {len(result.failed)}"
    )
    print(f"goodput {result.goodput:.3f} of capacity")
    print(f"accepted p99 {ms['accepted_p99']} (service + queue: {(SERVICE + QUEUE) * 1000:.0f} ms)")
    print(f"rejected p99 {ms['rejected_p99']}, impolite {len(result.impolite)}")
    print(f"recovery {ms['recovery']}")
    print(f"meanwhile: /readyz p99 {ms['readiness_p99']}, another API p99 {ms['other_p99']}, "
          f"not 200: {result.unhealthy}")  # fmt: skip
    print(f"the load itself was late by {ms['lateness_p99']} (p99)")
    for line in (*result.failed[:10], *result.impolite[:3], *result.grown):
        print(f"! {line}")


if __name__ == "__main__":
    sys.exit(main())
