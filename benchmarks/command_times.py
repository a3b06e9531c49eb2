"""How long the command line takes: whole processes, as a person waits for them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

from support.installation import Installation
from support.projects import write_versioned

RUNS = 7


def report(cortex: Installation, folder: Path) -> None:
    """Print the median and the spread of each command beside what it may take."""
    project = folder / "project"
    project.mkdir()
    write_versioned(project, version="0", name="timed")
    releases = iter(range(1, 100))

    def deploy() -> None:
        write_versioned(project, version=str(next(releases)), name="timed")
        started = time.perf_counter()
        cortex.run("deploy", "--yes", cwd=project)
        deploys.append(time.perf_counter() - started)

    deploys: list[float] = []
    print(f"{'command':<44}{'median':>9}{'min':>9}{'max':>9}{'goal':>9}")
    show("cortex --help", timed(lambda: cortex.run("--help")), goal=0.2)
    show("cortex validate", timed(lambda: cortex.run("validate", cwd=project)), goal=0.5)
    show("cortex local up, from nothing", [once(lambda: cortex.run("local", "up"))])
    show(
        "cortex deploy, the first, to live",
        [once(lambda: cortex.run("deploy", "--yes", cwd=project))],
        goal=3,
    )
    for _ in range(RUNS):
        deploy()
    show("cortex deploy, a change, to live", deploys, goal=3)
    show("cortex deploy, nothing changed", timed(lambda: cortex.run("deploy", "--yes", cwd=project)))
    show("cortex get timed", timed(lambda: cortex.run("get", "timed")))
    show("cortex predict timed", timed(lambda: cortex.run("predict", "timed", '{"n": 1}')))
    print()


def timed(action: Callable[[], object]) -> list[float]:
    action()
    return [once(action) for _ in range(RUNS)]


def once(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def show(name: str, seconds: list[float], goal: float | None = None) -> None:
    figures = (statistics.median(seconds), min(seconds), max(seconds))
    line = f"{name:<44}" + "".join(f"{value * 1000:>6.0f} ms" for value in figures)
    print(line + (f"{goal * 1000:>6.0f} ms" if goal is not None else ""), flush=True)
