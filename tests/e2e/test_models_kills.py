"""`kill -9` of a replica's supervisor whatever it does with a model: the next start is clean and serves what is newest."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from support.buckets import environ, new_bucket
from support.fault_proxy import Fault, FaultProxy, fault_proxy
from support.installation import Installation, wait_for
from support.s3_server import running_s3
from support.swapper import FILES, Directory, Prefix, files, write_project

MOMENTS = ((0, 0.3), (1.0, 1.8))
"""Seconds after a version came and another one went: the replica fetches, tries and publishes the one; it evicts the
other, which three listings have to lack.
"""

KILLS = 6


@dataclass(kw_only=True)
class Served:
    cortex: Installation
    proxy: FaultProxy
    s3: int


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with running_s3() as port, fault_proxy(port) as proxy:
        variables = {**environ(proxy.port), "CORTEX_MODEL_POLL_INTERVAL": "0.5"}
        cortex = Installation(tmp_path_factory.mktemp("cortex"), variables)
        yield Served(cortex=cortex, proxy=proxy, s3=port)
        cortex.down()


def test_killed_between_the_files_of_a_download(served: Served, project: Path) -> None:
    place = Prefix(served.s3, new_bucket(served.s3))
    place.publish(1)
    write_project(project, place.location)
    served.cortex.run("deploy", "--yes", cwd=project)
    for version, name in enumerate(FILES, start=2):
        served.proxy.add(
            Fault(match=rf"^GET [^ ]*/{version}/{name}", cut=1000, before=lambda: kill(served.cortex))
        )
        place.publish(version)
        check(served.cortex, version)
    served.proxy.clear()
    served.cortex.run("delete", "swapped", "--force")


def test_killed_at_any_moment_of_a_swap(served: Served, project: Path) -> None:
    place = Directory(project.parent / "models")
    place.publish(1)
    write_project(project, place.location)
    served.cortex.run("deploy", "--yes", cwd=project)
    moments = random.Random(3)
    for version in range(2, 2 + KILLS):
        place.publish(version)
        shutil.rmtree(place.path / str(version - 1))
        time.sleep(moments.uniform(*MOMENTS[version % 2]))
        kill(served.cortex)
        check(served.cortex, version)
    models = served.cortex.api("swapped")["models"]
    assert [row["state"] for row in models if row["version"] == str(1 + KILLS)] == ["live"]
    assert [row for row in models if row["state"] == "failed"] == []
    copies = copies_of(served.cortex)
    wait_for(lambda: len(list(copies.glob("*/*"))) == 1, within=10, what="what is gone is evicted")


def copies_of(cortex: Installation) -> Path:
    (copies,) = cortex.home.glob("**/models/versions")
    return copies


def kill(cortex: Installation) -> None:
    (supervisor,) = (process for process in cortex.processes() if is_supervisor(process))
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.wait(10)


def is_supervisor(process: psutil.Process) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return "cortex_serve" in words and "-m" in words


def answer(cortex: Installation) -> int | None:
    """The version that answers now; every answer there is must be from one version's files."""
    try:
        response = httpx.post(cortex.url("swapped"), json={"n": 1}, timeout=20)
    except httpx.TransportError:
        return None
    if response.status_code != 200:
        return None
    found = response.json()
    assert found["contents"] == [found["version"]] == [int(found["folder"])]
    return int(found["version"])


def check(cortex: Installation, version: int) -> None:
    """The version is soon served, nothing half-written is left, and what is on the disk is whole."""
    wait_for(lambda: answer(cortex) == version, within=20, what=f"version {version} is served")
    copies = copies_of(cortex)
    partial = copies.parent / "partial"
    wait_for(lambda: not any(partial.glob("*")), within=10, what="what was half-written is swept")
    for description in copies.glob("*/*/version.json"):
        for model in description.parent.glob("*/[0-9]*"):
            expected = files(int(model.name))
            found = {
                path.relative_to(model).as_posix(): path.read_bytes()
                for path in model.rglob("*")
                if path.is_file()
            }
            assert found == expected
