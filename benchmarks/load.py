"""Load by wrk (HTTP) and h2load (gRPC), on a core of its own; every answer is looked at.

wrk compares each answer with the one that was found right before; h2load counts bytes, and answers are all of one size.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from cores import LOAD, SERVER, on_core

DISTURBED = 0.1
"""Of a core: when others take more, what is measured is them too."""

SCRIPT = Path(__file__).with_name("load.lua")
WARM_UP = 1.0
TOOLS = {"wrk": "wrk", "h2load": "nghttp2-client"}
"""Programs and the Debian packages that bring them."""


class LoadFailed(Exception):
    """The load generator gave up; what it said."""


Family = Callable[[], Sequence[psutil.Process]]
"""A server's processes, now."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request, and the answer that is right."""

    url: str
    body: bytes
    content_type: str
    answer: bytes


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One measurement.

    Attributes:
        rate: right answers a second.
        p50, p99, worst: milliseconds.
        not_ok: answers with a status other than 200, and connections that broke.
        wrong: answers with 200 that were not right.
        server_us: CPU time of the server for one request, microseconds.
        load_share: how much of its core the load generator took; near 1, it is what was measured.
        others_share: how much of the two cores others took, of the one where that is more.
    """

    rate: float
    p50: float
    p99: float
    worst: float
    not_ok: int
    wrong: int
    server_us: float
    load_share: float
    others_share: float


def missing_tools() -> list[str]:
    """Programs that are not there and cannot be installed; they are installed by apt where that is allowed."""
    for program, package in TOOLS.items():
        if shutil.which(program) is None and os.geteuid() == 0 and shutil.which("apt-get"):
            print(f"installing {package} by apt-get, for {program}", flush=True)
            for words in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", package]):
                subprocess.run(["apt-get", *words], capture_output=True, timeout=600, check=False)
    return [
        f"{program} (apt-get install {package})"
        for program, package in TOOLS.items()
        if shutil.which(program) is None
    ]


def http(asked: Asked, *, clients: int, seconds: float, family: Family) -> Sample:
    """Keep `clients` connections busy for so long, after a warm-up."""
    with tempfile.TemporaryDirectory() as name:
        body, answer = Path(name, "body"), Path(name, "answer")
        body.write_bytes(asked.body)
        answer.write_bytes(asked.answer)

        def wrk(duration: float) -> str:
            # wrk counts in whole seconds, and lets a run end at most 0.1 s late
            whole = max(1, round(duration))
            return _run(
                ["wrk", "-t1", f"-c{clients}", f"-d{whole}s", "--timeout", "30s", "-s", str(SCRIPT), asked.url,
                 "--", str(body), asked.content_type, str(answer)],
                within=duration + 40,
            )  # fmt: skip

        wrk(WARM_UP)
        meter = _Meter(family)
        output = wrk(seconds)
        used = meter.used()
    told = json.loads(output.splitlines()[-1])
    right = max(told["requests"] - told["not_ok"] - told["wrong"], 0)
    return Sample(
        rate=right / told["seconds"],
        p50=told["p50"],
        p99=told["p99"],
        worst=told["worst"],
        not_ok=told["not_ok"] + told["broken"],
        wrong=told["wrong"],
        server_us=used.server / max(told["requests"], 1) * 1e6,
        load_share=used.load / told["seconds"],
        others_share=used.others / told["seconds"],
    )


def grpc(asked: Asked, *, clients: int, streams: int, seconds: float, family: Family) -> Sample:
    """Keep `clients` connections with `streams` calls each busy for so long, after a warm-up.

    Args:
        asked: body and answer as gRPC frames them.
    """
    with tempfile.TemporaryDirectory() as name:
        body, log = Path(name, "body"), Path(name, "log")
        body.write_bytes(asked.body)

        def h2load(duration: float, *options: str) -> str:
            return _run(
                ["h2load", "-t1", f"-c{clients}", f"-m{streams}", f"-D{duration * 1000:.0f}ms", "-d", str(body), *options,
                 "-H", "content-type: application/grpc", "-H", "te: trailers", asked.url],
                within=duration + 40,
            )  # fmt: skip

        h2load(WARM_UP)
        meter = _Meter(family)
        output = h2load(seconds, f"--log-file={log}")
        used = meter.used()
        rows = [line.split("\t") for line in log.read_text().splitlines()]
    milliseconds = [int(microseconds) / 1000 for _, _, microseconds in rows]
    answered = sum(status == "200" for _, status, _ in rows)
    received = _found(r"\((\d+)\) data", output)
    right = min(received // len(asked.answer), answered)
    cuts = statistics.quantiles(milliseconds, n=100) if len(milliseconds) > 1 else [0.0] * 99
    return Sample(
        rate=right / seconds,
        p50=cuts[49],
        p99=cuts[98],
        worst=max(milliseconds, default=0.0),
        not_ok=len(rows) - answered,
        wrong=answered - right,
        server_us=used.server / max(len(rows), 1) * 1e6,
        load_share=used.load / seconds,
        others_share=used.others / seconds,
    )


def calm(measure: Callable[[], Sample]) -> Sample:
    """Measure, and once more if others disturbed that; the calmer one counts."""
    sample = measure()
    if sample.others_share <= DISTURBED:
        return sample
    return min(sample, measure(), key=lambda each: each.others_share)


def _run(command: list[str], *, within: float) -> str:
    with on_core(LOAD):
        done = subprocess.run(command, capture_output=True, text=True, timeout=within, check=False)
    if done.returncode != 0:
        raise LoadFailed(f"{command[0]}: {done.stdout[-500:]} {done.stderr[-500:]}")
    return done.stdout


def _found(pattern: str, output: str) -> int:
    match = re.search(pattern, output)
    if match is None:
        raise LoadFailed(f"h2load said nothing like {pattern!r}:\n{output}")
    return int(match[1])


@dataclass(frozen=True, kw_only=True)
class _Used:
    """Seconds of CPU time: of the server, of the load, and of others on the core where they took more."""

    server: float
    load: float
    others: float


class _Meter:
    """Who used the CPU since it was made."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._before = self._now()

    def used(self) -> _Used:
        server, load, server_core, load_core = (
            now - before for now, before in zip(self._now(), self._before, strict=True)
        )
        others = (
            max(server_core - server, load_core - load) if SERVER != LOAD else server_core - server - load
        )
        return _Used(server=server, load=load, others=max(others, 0.0))

    def _now(self) -> tuple[float, float, float, float]:
        cores = psutil.cpu_times(percpu=True)
        return _cpu(self._family()), _children_cpu(), _busy(cores[SERVER]), _busy(cores[LOAD])


def _busy(core: Any) -> float:
    """Seconds that processes and neighbours of this machine took of a core; interrupts are nobody's."""
    return float(core.user + core.nice + core.system + core.steal)


def _children_cpu() -> float:
    """Seconds of all processes that were waited for; while a measurement runs, that is the load generator."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _cpu(processes: Sequence[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        try:
            used = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += used.user + used.system
    return total
