"""The storage fails in every way while versions are uploaded to it file by file: no request notices.

For minutes of it: `CORTEX_TEST_STORM_SECONDS=180 pytest -s tests/e2e/test_models_storage_faults.py`.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest
from support.buckets import environ, new_bucket
from support.fault_proxy import Fault, FaultProxy, fault_proxy
from support.installation import Installation
from support.load import Load
from support.s3_server import running_s3
from support.storm import Storm
from support.swapper import FILES, MANIFEST, Prefix, files, manifest, write_project

SECONDS = float(os.environ.get("CORTEX_TEST_STORM_SECONDS", "10"))
INTERVAL = 1.0
CONVERGES = 2 * INTERVAL + 2.0
"""Seconds after the faults: two polls, a fetch and a load."""

REVISIONS = 10
"""What a version's number is multiplied by, so that its content can be replaced by a greater number."""


@dataclass(kw_only=True)
class Served:
    cortex: Installation
    proxy: FaultProxy
    place: Prefix


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with running_s3() as port, fault_proxy(port) as proxy:
        variables = {**environ(proxy.port), "CORTEX_MODEL_POLL_INTERVAL": str(INTERVAL)}
        cortex = Installation(tmp_path_factory.mktemp("cortex"), variables)
        place = Prefix(port, new_bucket(port))
        place.upload("1", files(1 * REVISIONS))
        project = tmp_path_factory.mktemp("project")
        write_project(project, place.location)
        cortex.run("deploy", "--yes", cwd=project)
        yield Served(cortex=cortex, proxy=proxy, place=place)
        cortex.down()


class Uploader:
    """Uploads version after version in every order of their files, some slowly, some with a manifest, some twice."""

    def __init__(self, place: Prefix, *, seed: int) -> None:
        self.version = 1
        self.content = 1 * REVISIONS
        self._place = place
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        """After the upload in progress."""
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        for order in itertools.cycle(itertools.permutations(FILES)):
            self.version += 1
            self.content = self.version * REVISIONS
            described = self._random.random() < 0.5
            self._upload(order, described, pause=self._random.choice((0, 0.1, 0.6)))
            if self._random.random() < 0.3:  # replaced in place, perhaps while it is downloaded
                self.content += 1
                self._upload(order, described, pause=0)
            if self._stop.wait(self._random.uniform(0, 0.5)):
                return

    def _upload(self, order: tuple[str, ...], described: bool, *, pause: float) -> None:
        contents = files(self.content)
        if described:
            contents[MANIFEST] = manifest(contents)
            order = tuple(self._random.sample([*order, MANIFEST], 4))
        self._place.upload(str(self.version), contents, order=order, pause=pause)


@pytest.mark.timeout(SECONDS + 120)
def test_no_request_notices_what_the_storage_does(served: Served) -> None:
    load = Load(served.cortex.url("swapped"), connections=4, models=True)
    storm = Storm(seed=11)
    uploader = Uploader(served.place, seed=12)
    load.start()
    try:
        served.proxy.choose = storm.choose
        uploader.start()
        time.sleep(SECONDS)
        uploader.finish()
        storm.end()
        served.proxy.calm.set()
        ended = time.monotonic()
        load.wait_for_version(uploader.content, within=CONVERGES)
        converged = time.monotonic() - ended
    finally:
        report = load.stop()
    print(
        f"{report.answers} requests, {len(report.failures)} failed, {len(report.mixed)} mixed, "
        f"{len(report.went_back)} went back; {uploader.version} versions uploaded, {len(report.seen)} contents seen; "
        f"converged {converged:.1f} s after the faults; {dict(storm.met)}"
    )
    assert (report.failures, report.mixed, report.went_back) == ([], [], [])


def test_replaced_while_it_is_downloaded(served: Served) -> None:
    """The file that is downloaded last is of another content than the one downloaded first."""
    served.proxy.choose = lambda _: Fault()
    load = Load(served.cortex.url("swapped"), connections=4, models=True)
    load.start()
    try:
        for version in (1_000_000, 1_000_001, 1_000_002):
            first, second = files(version * REVISIONS), files(version * REVISIONS + 1)
            replace = partial(served.place.upload, str(version), second)
            served.proxy.add(Fault(match=rf"^GET [^ ]*/{version}/second.txt", before=replace))
            served.place.upload(str(version), first)
            load.wait_for_version(version * REVISIONS + 1, within=10)
    finally:
        report = load.stop()
    assert (report.failures, report.mixed, report.went_back) == ([], [], [])
