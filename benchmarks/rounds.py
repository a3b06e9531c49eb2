"""Measures a workload on all its contenders in turn: ours, bare, peer, peer, ours, …

All run from the first round to the last, idle when it is not their turn. What drifts on the machine meets everyone;
ratios are taken within a round.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import load
from contenders import Contender, Running, Site
from environments import Unavailable
from load import Asked, Sample
from workloads import Workload

CHECKS = 2
"""Requests of each client, all different, before anything is measured."""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Of two rates within each round: the median, the smallest and the largest."""

    median: float
    least: float
    most: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured of one contender.

    Attributes:
        samples: one a round; empty if it could not be measured.
        problem: why it could not be measured, or what was wrong with its first wrong answer.
        wrong: wrong answers when different requests were asked at once.
    """

    contender: str
    title: str
    samples: tuple[Sample, ...] = ()
    problem: str = ""
    wrong: int = 0

    @property
    def rate(self) -> float:
        return statistics.median(sample.rate for sample in self.samples)

    @property
    def p50(self) -> float:
        return statistics.median(sample.p50 for sample in self.samples)

    @property
    def p99(self) -> float:
        return statistics.median(sample.p99 for sample in self.samples)

    @property
    def server_us(self) -> float:
        return statistics.median(sample.server_us for sample in self.samples)

    @property
    def failed(self) -> int:
        """Answers that were not right, and those that did not come."""
        return self.wrong + sum(sample.not_ok + sample.wrong for sample in self.samples)

    def ratio(self, other: Result) -> Ratio:
        of = [
            mine.rate / theirs.rate if theirs.rate else math.inf
            for mine, theirs in zip(self.samples, other.samples, strict=True)
        ]
        return Ratio(median=statistics.median(of), least=min(of), most=max(of))


@dataclass(frozen=True, kw_only=True)
class Row:
    """A workload and its results."""

    name: str
    title: str
    results: tuple[Result, ...]

    @property
    def others_share(self) -> float:
        """What others took of a core in the measurement that they disturbed most."""
        return max((sample.others_share for each in self.results for sample in each.samples), default=0.0)

    def of(self, contender: str) -> Result | None:
        """Its result, if there is one with figures."""
        return next((each for each in self.results if each.contender == contender and each.samples), None)


@dataclass(kw_only=True)
class _Entry:
    contender: Contender
    samples: list[Sample]
    running: Running | None = None
    asked: Asked | None = None
    problem: str = ""
    wrong: int = 0


def run(
    workload: Workload,
    contenders: Sequence[Contender],
    *,
    seconds: float,
    rounds: int,
    folder: Path,
    config: dict[str, Any],
    say: Callable[[str], None],
) -> Row:
    """Start them all, check them, measure them in turn, end them."""
    entries = [_Entry(contender=contender, samples=[]) for contender in contenders]
    with ExitStack() as stack:
        for entry in entries:
            say(f"{workload.title}: starting {entry.contender.title}")
            own = folder / f"{workload.name}-{entry.contender.name}"
            own.mkdir()
            try:
                site = Site(folder=own, config=config)
                entry.running = stack.enter_context(entry.contender.start(workload, site))
                _check(workload, entry)
            except (Unavailable, OSError, AssertionError) as error:
                entry.problem = " ".join(str(error).split())
                say(f"{entry.contender.title} CANNOT BE MEASURED: {error}")
        for number in range(rounds):
            for entry in entries:
                if entry.asked is not None:
                    say(f"{workload.title}: round {number + 1} of {rounds}, {entry.contender.title}")
                    _measure(workload, entry, seconds, say)
    return Row(
        name=workload.name,
        title=workload.title,
        results=tuple(
            Result(
                contender=entry.contender.name,
                title=entry.contender.title,
                samples=tuple(entry.samples),
                problem=entry.problem,
                wrong=entry.wrong,
            )
            for entry in entries
        ),
    )


def _measure(workload: Workload, entry: _Entry, seconds: float, say: Callable[[str], None]) -> None:
    running, asked = entry.running, entry.asked
    assert running is not None
    assert asked is not None
    try:
        sample = load.calm(
            lambda: load.http(asked, clients=workload.clients, seconds=seconds, family=running.family)
        )
    except load.LoadFailed as error:
        entry.problem, entry.asked, entry.samples = str(error), None, []
        say(f"{entry.contender.title} CANNOT BE MEASURED: {error}")
    else:
        entry.samples.append(sample)


def _check(workload: Workload, entry: _Entry) -> None:
    """Ask different things at once and compare each answer; keeps one right answer as what load compares with."""
    running, contender = entry.running, entry.contender
    assert running is not None

    def one(number: int) -> bytes:
        try:
            body = contender.ask(workload, running, number)
        except OSError as error:
            entry.problem = entry.problem or f"no answer: {error}"
            return b""
        if contender.is_right(workload, number, body):
            return body
        entry.problem = entry.problem or f"wrong answer: {body[:200]!r}"
        return b""

    with ThreadPoolExecutor(workload.clients) as threads:
        answers = list(threads.map(one, range(CHECKS * workload.clients)))
    entry.wrong = sum(not answer for answer in answers)
    right = next((number for number, answer in enumerate(answers) if answer), None)
    if right is None:
        raise Unavailable(entry.problem)
    entry.asked = contender.asked(workload, running, right, answers[right])
