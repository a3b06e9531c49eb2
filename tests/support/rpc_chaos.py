"""gRPC in all forms through the gateway while everything changes: versions of the model, releases, replicas.

    PYTHONPATH=tests python -m support.rpc_chaos --seconds 60

A version is published each second, and one deploy or refresh follows the other. HTTP requests to another API of the same
gateway go on beside it. Nothing may fail, and no client may be taken back to an older release, or to an older version than
its replica answered before; the new replicas of a deploy or refresh may be one version behind the old ones, for the moment
in which both answer, as each swaps by itself.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from support.installation import Installation, wait_for
from support.load import Load
from support.load import Report as HttpReport
from support.rpc_load import Report, RpcLoad
from support.rpc_project import write_rpc_project
from support.swapper import Directory

BETWEEN_VERSIONS = 1.0
BETWEEN_CHANGES = 2.0
"""Seconds. A deploy itself takes some more."""

NOTICED = 10.0
"""Seconds until what was published or deployed last answers."""


@dataclass(frozen=True, kw_only=True)
class Chaos:
    """What happened.

    Attributes:
        published, deployed, refreshed: how often.
    """

    rpcs: Report
    http: HttpReport
    published: int
    deployed: int
    refreshed: int

    @property
    def problems(self) -> list[str]:
        """All that must not have happened."""
        return [*self.rpcs.failures, *self.rpcs.went_back, *self.http.failures]


def chaos(folder: Path, *, seconds: float) -> Chaos:
    """Deploy, change everything for so long, and take it down again.

    Args:
        folder: an empty one.
    """
    project = folder / "project"
    project.mkdir()
    models = Directory(folder / "models")
    models.publish(1)
    cortex = Installation(folder)

    def deploy(release: int) -> None:
        write_rpc_project(project, release=release, models=models.location, processes=2)
        cortex.run("deploy", "--yes", cwd=project)

    try:
        deploy(1)
        rpcs = RpcLoad(cortex.gateway_url.removeprefix("http://"), skew=1)
        http = Load(cortex.url("plain"), connections=2)
        rpcs.start()
        http.start()
        with _Publishing(models) as publishing:
            released, refreshed = 1, 0
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(BETWEEN_CHANGES)
                if released % 3 == 0 and refreshed < released // 3:
                    cortex.run("refresh", "rpcs")
                    refreshed += 1
                else:
                    released += 1
                    deploy(released)
        wait_for(
            lambda: publishing.version in rpcs.so_far().versions, within=NOTICED, what="the last version"
        )
        wait_for(lambda: released in rpcs.so_far().releases, within=NOTICED, what="the last release")
        return Chaos(
            rpcs=rpcs.stop(), http=http.stop(), published=publishing.version, deployed=released, refreshed=refreshed
        )  # fmt: skip
    finally:
        cortex.down()


class _Publishing:
    """Publishes one version after the other while it is entered.

    Attributes:
        version: the last one.
    """

    def __init__(self, models: Directory) -> None:
        self.version = 1
        self._models = models
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._publish)

    def __enter__(self) -> _Publishing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _publish(self) -> None:
        for version in itertools.count(2):
            if self._ended.wait(BETWEEN_VERSIONS):
                return
            self._models.publish(version)
            self.version = version


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = chaos(Path(folder), seconds=options.seconds)
    rpcs = ", ".join(f"{count:,} {form}" for form, count in sorted(result.rpcs.answers.items()))
    print(
        f"{result.published} versions ({len(result.rpcs.versions)} seen), {result.deployed} releases "
        f"({len(result.rpcs.releases)} seen), {result.refreshed} refreshes"
    )
    print(f"{result.rpcs.answers.total():,} RPCs ({rpcs}), {result.http.answers:,} HTTP requests")
    print(f"{len(result.problems)} problems", *result.problems[:20], sep="\n  ")
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
