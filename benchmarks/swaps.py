"""What requests notice of new versions of a model: `make bench-models`, or with options of its own.

Versions are published under full load, in phases that alternate with phases without, so that latencies with swaps and
without are of one run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cores import LOAD, SERVER, on_core
from support.buckets import environ, new_bucket
from support.installation import Installation, wait_for
from support.load import Load, Report
from support.s3_server import running_s3
from support.swapper import Directory, Place, Prefix, fault_of, write_project

POLL = 1.0
PHASES = 8
LONGEST_REST = 15.0
"""Seconds of a phase without swaps."""


@dataclass(kw_only=True)
class Run:
    """One measurement.

    Attributes:
        name: what is measured.
        interval: seconds from one version to the next.
        broken: whether every fifth version is broken.
        connections, pause: of the load.
    """

    name: str
    interval: float
    place: Callable[[Path, int | None], Place]
    broken: bool = False
    connections: int = 8
    pause: float = 0


@dataclass
class Published:
    """When versions appeared, and the phases with swaps, by the monotonic clock."""

    at: dict[int, float] = field(default_factory=dict)
    phases: list[tuple[float, float]] = field(default_factory=list)


@dataclass(kw_only=True)
class Measured:
    """What requests noticed.

    Attributes:
        failed: versions that `cortex get` names as failed.
    """

    run: Run
    published: Published
    report: Report
    failed: set[str]

    @property
    def problems(self) -> list[str]:
        return self.report.failures + self.report.mixed + self.report.went_back

    def latencies(self) -> tuple[list[float], list[float]]:
        """Seconds of the requests sent in phases with swaps, and of the others up to the last phase's mirror."""
        swapping, quiet = [], []
        for start, seconds in zip(self.report.starts, self.report.seconds, strict=True):
            if any(began <= start < ended for began, ended in self.published.phases):
                swapping.append(seconds)
            else:
                quiet.append(seconds)
        return swapping, quiet


def local(folder: Path, _: int | None) -> Place:
    return Directory(folder / "models")


def s3(_: Path, port: int | None) -> Place:
    assert port is not None
    return Prefix(port, new_bucket(port), described=True)


RUNS = (
    Run(name="a local directory", interval=0.3, place=local),
    Run(name="a local directory, a third of the load", interval=0.3, place=local, connections=4, pause=0.01),
    Run(name="a local directory, every fifth version broken", interval=0.3, place=local, broken=True),
    Run(name="S3, polled each second", interval=1.5, place=s3),
    Run(name="S3, polled each second, every fifth version broken", interval=1.5, place=s3, broken=True),
)


def measure(run: Run, versions: int) -> Measured:
    """Publish so many versions under load; the API is on a core of its own."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        port = stack.enter_context(running_s3()) if run.place is s3 else None
        variables = {**environ(port), "CORTEX_MODEL_POLL_INTERVAL": str(POLL)} if port else {}
        cortex = stack.enter_context(installed(folder, variables))
        place = run.place(folder, port)
        place.publish(1)
        project = folder / "project"
        project.mkdir()
        write_project(project, place.location)
        with on_core(SERVER):
            cortex.run("deploy", "--yes", cwd=project)
        with on_core(LOAD):
            load = Load(cortex.url("swapped"), connections=run.connections, pause=run.pause, models=True)
            load.start()
            try:
                published = publish(run, versions, place, cortex)
            finally:
                report = load.stop()
        failed = {row["version"] for row in cortex.api("swapped")["models"] if row["state"] == "failed"}
        return Measured(run=run, published=published, report=report, failed=failed)


@contextmanager
def installed(folder: Path, variables: dict[str, str]) -> Iterator[Installation]:
    cortex = Installation(folder, variables)
    try:
        yield cortex
    finally:
        cortex.down()


def publish(run: Run, versions: int, place: Place, cortex: Installation) -> Published:
    published = Published()
    a_phase = max(versions // PHASES, 1)
    time.sleep(2)
    for first in range(2, versions + 2, a_phase):
        began = time.monotonic()
        for version in range(first, min(first + a_phase, versions + 2)):
            next_at = time.monotonic() + run.interval
            fault = fault_of(version) if run.broken else None
            published.at[version] = place.publish(version, fault)
            if fault is not None:
                wait_until_failed(cortex, version)
            time.sleep(max(next_at - time.monotonic(), 0))
        ended = time.monotonic()
        published.phases.append((began, ended))
        time.sleep(min(ended - began, a_phase * run.interval, LONGEST_REST))
    return published


def wait_until_failed(cortex: Installation, version: int) -> None:
    def failed() -> bool:
        time.sleep(0.2)
        return (str(version), "failed") in {
            (row["version"], row["state"]) for row in cortex.api("swapped")["models"]
        }

    wait_for(failed, within=60, what=f"version {version} is known to be broken")


def tell(measured: Measured) -> None:
    run, published, report, failed = measured.run, measured.published, measured.report, measured.failed
    good = [version for version in published.at if not (run.broken and fault_of(version))]
    lives = {version: report.live_since(version) for version in good}
    delays = sorted(live - published.at[version] for version, live in lives.items() if live is not None)
    overlaps = [overlap for version in good if (overlap := report.overlap(version)) is not None]
    swapping, quiet = measured.latencies()
    print(f"{len(published.at)} versions in {run.name}")
    print(f"  requests {report.answers:,}, failed {len(report.failures)}, mixed {len(report.mixed)}, "
          f"went back {len(report.went_back)}")  # fmt: skip
    for problem in measured.problems[:5]:
        print(f"    {problem}")
    if run.broken:
        broken = {str(version) for version in published.at if fault_of(version)}
        print(f"  broken {len(broken)}, of which `cortex get` names {len(broken & failed)}")
    print(f"  versions that were live: {sum(str(version) in report.seen for version in good)} of {len(good)}")
    print(f"  published → every connection has it   p50 {milliseconds(statistics.median(delays))}, "
          f"p95 {milliseconds(delays[int(len(delays) * 0.95)])}, max {milliseconds(delays[-1])}")  # fmt: skip
    print(f"  last request by the old one, after the first answer by the new one: at most {milliseconds(max(overlaps))}"
          " (negative: none was)")  # fmt: skip
    print(
        f"  latency with swaps    p50 {milliseconds(statistics.median(swapping))}, p99 {milliseconds(p99(swapping))}"
    )
    print(
        f"  latency without       p50 {milliseconds(statistics.median(quiet))}, p99 {milliseconds(p99(quiet))}"
    )
    print(f"  p99 with / without    {p99(swapping) / p99(quiet):.2f}\n", flush=True)


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", type=int, default=200)
    parser.add_argument("--only", metavar="TEXT", default="", help="runs whose name contains this")
    options = parser.parse_args()
    for run in RUNS:
        if options.only in run.name:
            tell(measure(run, options.versions))


if __name__ == "__main__":
    main()
