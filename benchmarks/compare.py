"""Ours, the bare servers it stands on, and its peers, on the same handlers: `make bench-peers`.

Each peer is installed into an environment of its own (`.bench/`), servers run on one core and load on another, in
alternating rounds. Figures belong to the machine they were taken on; ratios within a round hold.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cores
import load
import overload
import rounds
import rpc
import swaps
import tables
import verdicts
from contenders import CONTENDERS
from workloads import WORKLOADS

RPC_THREADS = (1, 10)
VERSIONS = 60
"""Published under load in the row of hot swaps."""

ALWAYS = ("ours", "bare")
OTHERS = tuple(contender.name for contender in CONTENDERS if contender.name not in ALWAYS)
PARTS = (
    *(workload.name for workload in WORKLOADS),
    *(f"grpc-{threads}" for threads in RPC_THREADS),
    "overload",
    "swaps",
)
BEGIN, END = "<!-- figures: written by `make bench-peers` -->", "<!-- end of figures -->"


@dataclass(frozen=True, kw_only=True)
class Figures:
    """All that was measured."""

    machine: str
    rows: Sequence[rounds.Row]
    overload: overload.Overload | None
    swaps: swaps.Measured | None
    verdicts: Sequence[verdicts.Verdict]

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "machine": self.machine,
            "rows": [asdict(row) for row in self.rows],
            "overload": asdict(self.overload) if self.overload is not None else None,
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
        }


def measure(options: argparse.Namespace, folder: Path) -> Figures:
    """Run what is asked for; what is finished is printed at once."""
    parts = chosen(options.only, PARTS)
    contenders = [each for each in CONTENDERS if each.name in (*ALWAYS, *chosen(options.peers, OTHERS))]
    config = {"model": str(train_iris(folder))}
    rows: list[rounds.Row] = []

    def add(row: rounds.Row) -> None:
        rows.append(row)
        print(tables.text(row), flush=True)

    for workload in WORKLOADS:
        if workload.name in parts:
            among = [each for each in contenders if workload.only is None or each.name in workload.only]
            add(rounds.run(workload, among, seconds=options.seconds, rounds=options.rounds, folder=folder,
                           config=config, say=say))  # fmt: skip
    for threads in RPC_THREADS:
        if f"grpc-{threads}" in parts:
            add(
                rpc.run(
                    threads=threads, seconds=options.seconds, rounds=options.rounds, folder=folder, say=say
                )
            )
    overloaded = swapped = None
    if "overload" in parts:
        say(f"overload for {options.overload_seconds:g} s")
        own = folder / "overload"
        own.mkdir()
        overloaded = overload.run(seconds=options.overload_seconds, folder=own)
    if "swaps" in parts:
        say(f"{VERSIONS} hot swaps")
        swapped = swaps.measure(swaps.RUNS[0], VERSIONS)
    found = verdicts.of(rows, overloaded, swapped)
    print(tables.verdicts_text(found), flush=True)
    return Figures(machine=machine(), rows=rows, overload=overloaded, swaps=swapped, verdicts=found)


def chosen(text: str, names: Sequence[str]) -> list[str]:
    """`echo` is `echo`, and `echo-1`.

    Raises:
        SystemExit: a name means nothing.
    """
    words = [word for word in text.split(",") if word] or list(names)
    found = [name for name in names if any(name == word or name.startswith(f"{word}-") for word in words)]
    unknown = [
        word for word in words if not any(name == word or name.startswith(f"{word}-") for name in names)
    ]
    if unknown:
        sys.exit(f"{', '.join(unknown)}: not one of {', '.join(names)}")
    return found


def train_iris(folder: Path) -> Path:
    import joblib
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    flowers, species = load_iris(return_X_y=True)
    file = folder / "iris.joblib"
    joblib.dump(LogisticRegression(max_iter=1000).fit(flowers, species), file)
    return file


def machine() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return (
        f"{time.strftime('%Y-%m-%d')}, Python {platform.python_version()}, {platform.system()} {platform.release()}, "
        f"{len(os.sched_getaffinity(0))} cores of {model}; {cores.described()}"
    )


def write_docs(figures: Figures, folder: Path) -> None:
    """Put the figures between the marks of `benchmarks.md`, and the picture beside it."""
    import plot

    page = folder / "benchmarks.md"
    before, mark, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (mark and end):
        sys.exit(f"{page} has no place for figures: {BEGIN} … {END}")
    plot.draw(figures.rows, folder / "benchmarks.png")
    text = tables.markdown(figures.rows, figures.verdicts)
    picture = "![requests a second by server and workload](benchmarks.png)"
    page.write_text(f"{before}{BEGIN}\n\nMeasured {figures.machine}.\n\n{picture}\n\n{text}\n{END}{after}")


def say(line: str) -> None:
    """What is done now: on stderr, so that stdout has figures alone."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="ROWS", default="", help=f"of {','.join(PARTS)}")
    parser.add_argument(
        "--peers", metavar="NAMES", default="", help=f"beside {','.join(ALWAYS)}: of {','.join(OTHERS)}"
    )
    parser.add_argument("--seconds", type=float, default=2, help="of a measurement; its warm-up comes before")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--overload-seconds", type=float, default=60)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="a PNG; needs matplotlib (the extra `bench`)"
    )
    parser.add_argument(
        "--write", type=Path, metavar="DOCS", help="into benchmarks.md and benchmarks.png of this folder"
    )
    options = parser.parse_args()
    if missing := load.missing_tools():
        sys.exit(f"the load generators are not installed: {', '.join(missing)}")
    print(f"{machine()}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        figures = measure(options, Path(folder))
    if options.json:
        options.json.write_text(json.dumps(figures.plain(), indent=1) + "\n")
    if options.plot:
        import plot

        plot.draw(figures.rows, options.plot)
    if options.write:
        write_docs(figures, options.write)


if __name__ == "__main__":
    main()
