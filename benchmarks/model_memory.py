"""What a thousand loads and unloads of a 20 MiB model leave in a worker's memory: `make bench-models`."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import httpx
from support.big_model import ALLOWED, MODEL_BYTES, taken, write_project
from support.installation import Installation
from support.load import Load
from support.swapper import Directory

MIB = 1024**2
REST = 5
"""Seconds after the last load."""


def by_versions(cortex: Installation, folder: Path, loads: int) -> None:
    """Each version replaces the one before, under load, in two processes."""
    place = Directory(folder / "models")
    place.publish(1)
    write_project(folder, f"      path: {place.location}\n", processes=2)
    cortex.run("deploy", "--yes", cwd=folder, timeout=300)
    load = Load(cortex.url("big"), connections=4, models=True)
    load.start()
    time.sleep(2)
    base = taken(cortex) - MODEL_BYTES
    most = 0
    try:
        for version in range(2, loads + 2):
            place.publish(version)
            load.wait_for_version(version, within=30)
            most = max(most, taken(cortex))
    finally:
        report = load.stop()
    time.sleep(REST)
    tell(f"{loads} versions that replaced one another, {len(report.failures)} of {report.answers:,} requests failed",
         base, most, taken(cortex))  # fmt: skip
    cortex.run("delete", "big", "--force")


def through_the_cache(cortex: Installation, folder: Path, loads: int) -> None:
    """Three models, of which one fits."""
    for number in range(3):
        Directory(folder / f"models/model-{number}").publish(number)
    models = f"      dir: {folder / 'models'}\n      cache_size: 1\n      disk_cache_size: 2\n"
    write_project(folder, models, name="cached")
    cortex.run("deploy", "--yes", cwd=folder, timeout=300)
    most = failed = 0
    with httpx.Client(timeout=30) as client:
        client.post(cortex.url("cached"), json={"n": 0}, params={"model": "model-0"})
        base = taken(cortex) - MODEL_BYTES
        for number in range(loads):
            query = {"model": f"model-{number % 3}"}
            answer = client.post(cortex.url("cached"), json={"n": number}, params=query)
            failed += answer.status_code != 200
            if number % 10 == 0:
                most = max(most, taken(cortex))
    time.sleep(REST)
    tell(f"{loads} loads through a cache of one model, {failed} requests failed", base, most, taken(cortex))
    cortex.run("delete", "cached", "--force")


def tell(name: str, base: int, most: int, after: int) -> None:
    print(f"{name}\n  a worker without a model {base / MIB:.0f} MiB, at most {most / MIB:.0f} MiB, "
          f"in the end {after / MIB:.0f} MiB; allowed: {(base + ALLOWED) / MIB:.0f} MiB\n", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loads", type=int, default=1000)
    options = parser.parse_args()
    for measure in (by_versions, through_the_cache):
        with tempfile.TemporaryDirectory() as name:
            cortex = Installation(Path(name))
            project = Path(name, "project")
            project.mkdir()
            try:
                measure(cortex, project, options.loads)
            finally:
                cortex.down()


if __name__ == "__main__":
    main()
