"""Where the microseconds of one request go: `python benchmarks/request_layers.py`.

Two views of the same echo, one worker and one thread:

    the layers     each part of the request path alone, in this process: CPU time, the median of many repetitions,
                   and beside it its budget, which is what it took when it was last worked on and half as much again
    the whole      the replica against the bare server it stands on, in rounds by turns, by wrk on another core
                   (not with `--layers-only`)
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "tests"))

import rounds
import tables
from contenders import CONTENDERS
from cores import SERVER, described, on_core
from handlers.echo import Handler
from workloads import WORKLOADS

from cortex_serve import payload, response, wsgi
from cortex_serve.application import Application
from cortex_serve.log import LinePipe, Log

BODY = b'{"n": 12345, "values": [1.5, 2.5, 3.5]}'
REQUEST_ID = "0123456789abcdef0123456789abcdef"
REPETITIONS = 5_000
SAMPLES = 41

BUDGETS = {
    "id of the request": 0.3,
    "id in the context, and out of it": 0.2,
    "body, taken from the server": 0.3,
    "payload: JSON decoded": 0.55,
    "arguments: what the method declares": 0.15,  # without the payload
    "the handler's method": 0.1,
    "answer: JSON encoded": 1.5,
    "status and headers": 0.35,
    "counters": 0.6,
    "access line, with writing it": 1.3,
    "what holds these together": 2.2,
    "all": 7.5,
}
"""Microseconds on a core of about 3 GHz. The server around it (sockets, parsing, the hand-over to Python) takes 13."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Microseconds of one layer: the median of all samples, and the smallest."""

    median: float
    least: float


class Input:
    """What a server gives for a body that has arrived."""

    def read(self, size: int) -> bytes:  # noqa: ARG002 - WSGI's shape
        return BODY


ENVIRON = {
    "REQUEST_METHOD": "POST",
    "PATH_INFO": "/",
    "QUERY_STRING": "",
    "CONTENT_TYPE": "application/json",
    "CONTENT_LENGTH": str(len(BODY)),
    "HTTP_HOST": "127.0.0.1:8080",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "wsgi.input": Input(),
}


def layers() -> dict[str, Callable[[], Any]]:
    """Each layer as a request runs through it; "all" is the carrier with all of them."""
    logging.getLogger("cortex").setLevel(logging.INFO)
    log = Log(
        LinePipe(os.open(os.devnull, os.O_WRONLY)), replica="echo-0123456789abcdef-0", project="/project"
    )
    application = Application(Handler({}), threads=1, log=log)
    plan = application.plans["POST"]
    declared = type(plan)(lambda: None)  # a method without arguments
    value = payload.read(BODY, "application/json")
    answer = response.answer(value)
    context = log.request_id
    written = 0

    def access() -> None:
        log.access("POST", "/", 200, 0.000123, REQUEST_ID)
        flush()

    def flush() -> None:
        nonlocal written
        written += 1
        if written % 1000 == 0:  # as many as gather until they are written, at 20,000 requests a second
            log.close()

    def counters() -> None:
        counters = application.stats.counters()
        counters.in_flight += 1
        time.perf_counter()
        counters.began = time.perf_counter()
        counters.began = 0.0
        counters.finish(200, time.perf_counter() - time.perf_counter())

    def headers() -> None:
        response.status_line(answer.status)
        wsgi.sent_headers(answer, REQUEST_ID)

    def all_of_it() -> None:
        application.wsgi(ENVIRON, _start_response)
        flush()

    return {
        "id of the request": lambda: application.request_id(None),
        "id in the context, and out of it": lambda: context.reset(context.set(REQUEST_ID)),
        "body, taken from the server": lambda: wsgi.read_body(ENVIRON, application.max_body_bytes),
        "payload: JSON decoded": lambda: payload.read(BODY, "application/json"),
        "arguments: what the method declares": lambda: declared.arguments(b"", None, "", None),
        "the handler's method": lambda: plan.call(payload=value),
        "answer: JSON encoded": lambda: response.answer(value),
        "status and headers": headers,
        "counters": counters,
        "access line, with writing it": access,
        "all": all_of_it,
    }


def costs(calls: dict[str, Callable[[], Any]]) -> dict[str, Cost]:
    """What each layer costs; sampled by turns, so that what drifts on the machine meets all."""
    samples: dict[str, list[float]] = {name: [] for name in ("", *calls)}
    for _ in range(SAMPLES):
        for name, call in (("", _nothing), *calls.items()):
            samples[name].append(_sample(call))
    empty = statistics.median(samples.pop(""))  # the loop, and the call of the layer
    every = {
        name: Cost(median=max(statistics.median(taken) - empty, 0.0), least=max(min(taken) - empty, 0.0))
        for name, taken in samples.items()
    }
    total = every.pop("all")
    every["what holds these together"] = Cost(
        median=max(total.median - sum(cost.median for cost in every.values()), 0.0),
        least=max(total.least - sum(cost.least for cost in every.values()), 0.0),
    )
    return {**every, "all": total}


def report_layers() -> bool:
    """Print what each layer costs; returns whether all keep to their budgets."""
    with on_core(SERVER):
        every = costs(layers())
    print(f"{'one request of ours, µs of CPU':<42}{'median':>9}{'least':>9}{'budget':>9}")
    for name, cost in every.items():
        over = "  OVER" if cost.median > BUDGETS[name] else ""
        print(f"{name:<42}{cost.median:>9.2f}{cost.least:>9.2f}{BUDGETS[name]:>9.2f}{over}")
    print()
    return all(cost.median <= BUDGETS[name] for name, cost in every.items())


def report_whole(*, seconds: float, number: int) -> None:
    """Print the replica beside the bare server."""
    echo = next(each for each in WORKLOADS if each.name == "echo")
    both = [each for each in CONTENDERS if each.name in ("bare", "ours")]
    with tempfile.TemporaryDirectory() as folder:
        row = rounds.run(
            echo, both, seconds=seconds, rounds=number, folder=Path(folder), config={}, say=lambda _: None
        )
    print(tables.text(row))


def _nothing() -> None:
    pass


def _start_response(status: str, headers: Any) -> None:
    pass


def _sample(call: Callable[[], Any]) -> float:
    """Microseconds of this thread for one call."""
    began = time.thread_time()
    for _ in range(REPETITIONS):
        call()
    return (time.thread_time() - began) / REPETITIONS * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers-only", action="store_true", help="do not start servers")
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement of the whole")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, {described()}\n")
    within = report_layers()
    if not options.layers_only:
        report_whole(seconds=options.seconds, number=options.rounds)
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
