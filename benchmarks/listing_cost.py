"""What following models costs while nothing happens: requests and time of a pass over 1,000 models of 5 versions.

A pass is what a replica does every few seconds: list the location, compare, find nothing new. Requests are counted by a
proxy in front of the S3 server; times are taken without it. CPU time is this process's, not the server's.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from support.buckets import ENVIRONMENT, client, new_bucket
from support.fault_proxy import fault_proxy
from support.installation import wait_for
from support.s3_server import running_s3

from cortex_core.models.settling import Settled
from cortex_core.spec.types import Models
from cortex_serve.agent.source import LocationStatus, Source

MODELS = 1000
VERSIONS = 5
PASSES = 7
INTERVAL = 1.0

KEYS = [f"m{model:04}/{version}/model.bin" for model in range(MODELS) for version in range(1, VERSIONS + 1)]


def report(folder: Path) -> None:
    """Print requests, wall and CPU time of an unchanged pass, for a local directory and for S3."""
    print(
        f"{f'{MODELS:,} models of {VERSIONS} versions, unchanged pass':<44}{'requests':>9}{'wall':>11}{'CPU':>11}"
    )
    place = folder / "listed"
    for key in KEYS:
        (place / key).parent.mkdir(parents=True)
        (place / key).write_bytes(b"1")
    show("local directory", "-", str(place))
    with running_s3() as port:
        bucket = new_bucket(port)
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda key: client(port).put_object(Bucket=bucket, Key=key, Body=b"1"), KEYS))
        with at_endpoint(port):
            show("S3 (moto's server)", f"{requests_a_pass(port, bucket):g}", f"s3://{bucket}")
    print()


def show(name: str, requests: str, location: str) -> None:
    with following(location) as source:
        walls = []
        cpu, passes = time.process_time(), status(source).passes
        for _ in range(PASSES):
            await_passes(source, 1)
            walls.append(status(source).seconds or 0)
        cpu = (time.process_time() - cpu) / (status(source).passes - passes)
    print(
        f"{name:<44}{requests:>9}{statistics.median(walls) * 1000:>8.1f} ms{cpu * 1000:>8.1f} ms", flush=True
    )


def requests_a_pass(port: int, bucket: str) -> float:
    """Of any kind, over several unchanged passes."""
    with fault_proxy(port) as proxy, at_endpoint(proxy.port), following(f"s3://{bucket}") as source:
        requests, passes = len(proxy.requests), status(source).passes
        await_passes(source, PASSES)
        return (len(proxy.requests) - requests) / (status(source).passes - passes)


@contextmanager
def following(location: str) -> Iterator[Source]:
    """A source that has found and settled all models."""
    told: list[Settled] = []
    source = Source(
        Models(dir=location),
        "python",
        changed=told.append,
        report=lambda level, line: print(level, line),
        poll_interval=INTERVAL,
    )
    source.start()
    try:
        wait_for(
            lambda: (
                sum(len(model.versions) for model in told[-1].models.values()) == len(KEYS) if told else False
            ),
            within=60,
            what="all models",
        )
        await_passes(source, 2)
        yield source
    finally:
        source.close()


def status(source: Source) -> LocationStatus:
    [only] = source.locations()
    return only


def await_passes(source: Source, count: int) -> None:
    wanted = status(source).passes + count
    wait_for(lambda: status(source).passes >= wanted, within=60, what="the next pass")


@contextmanager
def at_endpoint(port: int) -> Iterator[None]:
    """boto3 finds S3 at this port of 127.0.0.1."""
    before = dict(os.environ)
    os.environ |= {**ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before
