"""Models in S3 when a file is deployed, and what replicas say about models at a real admin port."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.buckets import client, new_bucket, use_endpoint
from support.installation import free_ports
from support.operators import World, config, run
from support.s3_server import running_s3

from cortex_core.operator_api import ModelStatus
from cortex_core.spec.problems import InvalidConfig
from cortex_operator.backends.protocol import Replica
from cortex_operator.clock import SystemClock
from cortex_operator.model_reports import DEADLINE, AdminPorts, ModelReports


@pytest.fixture(scope="module")
def s3_port() -> Iterator[int]:
    with running_s3() as port:
        yield port


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def following(*locations: str) -> str:
    entries = "".join(
        f"        - {{name: model-{number}, path: {each}}}\n" for number, each in enumerate(locations)
    )
    models = f"    multi_model_reloading:\n      paths:\n{entries}"
    return config().replace("    path: handler.py\n", f"    path: handler.py\n{models}")


async def problems(world: World, text: str) -> list[str]:
    with pytest.raises(InvalidConfig) as caught:
        await world.begin(text)
    return [f"{each.path}: {each.message}".partition("\n")[0] for each in caught.value.problems]


def put(port: int, bucket: str, *keys: str) -> None:
    for key in keys:
        client(port).put_object(Bucket=bucket, Key=key, Body=b"x")


def test_models_in_s3_are_looked_at(world: World, s3_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    use_endpoint(monkeypatch, s3_port)
    bucket = new_bucket(s3_port)
    put(s3_port, bucket, "right/1/a", "right/2/a", "wrong/1/a", "wrong/b", "right-too/a")

    async def scenario() -> None:
        await world.start()
        assert await problems(
            world,
            following(
                f"s3://{bucket}/right",
                f"s3://{bucket}/wrong/",
                f"s3://{bucket}/nothing",
                "s3://no-such-bucket/m",
            ),
        ) == [
            f"iris.handler.multi_model_reloading.paths[2].path: s3://{bucket}/wrong: only directories named by digits 0-9 "
            "may be beside versions; found also 'b'",
            f"iris.handler.multi_model_reloading.paths[3].path: s3://{bucket}/nothing: there is no model: the directory is "
            "empty or does not exist",
            "iris.handler.multi_model_reloading.paths[4].path: the models cannot be listed: ListObjectsV2 "
            "s3://no-such-bucket/m/: there is no bucket 'no-such-bucket' (check its name, or make it)",
        ]
        deployment = await world.deploy(following(f"s3://{bucket}/right", f"s3://{bucket}/right-too/"))
        assert deployment.state == "live"

    run(scenario())


def test_an_endpoint_that_is_away_is_said_to_be_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    use_endpoint(monkeypatch, port)

    async def scenario() -> None:
        await world.start()
        assert await problems(world, following("s3://bucket/m")) == [
            "iris.handler.multi_model_reloading.paths[1].path: the models cannot be listed: ListObjectsV2 s3://bucket/m/: "
            f"127.0.0.1:{port} cannot be reached"
        ]

    run(scenario())


@contextmanager
def admin_port(body: str, *, wait: Callable[[], object] = lambda: None) -> Iterator[int]:
    """A replica's admin port, which waits before it answers."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/models"
            wait()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def replica(port: int) -> Replica:
    return Replica(
        id=f"iris-a-{port}",
        api="iris",
        workload="iris-a",
        release_id="r",
        state="ready",
        host="127.0.0.1",
        admin_port=port,
    )


def models_of(*ports: int, within: float = DEADLINE) -> tuple[ModelStatus, ...]:
    async def ask() -> tuple[ModelStatus, ...]:
        pages = AdminPorts()
        reports = ModelReports(pages.ask, clock=SystemClock(), within=within)
        try:
            return await reports.of([replica(port) for port in ports])
        finally:
            await reports.close()
            await pages.close()

    return asyncio.run(ask())


ROW = {"name": "iris", "version": "7", "digest": "d", "state": "live", "loaded_at": 5.0, "more": "ignored"}


def test_models_are_asked_of_all_replicas_at_once() -> None:
    rows = json.dumps([ROW])
    both_asked = threading.Barrier(2, timeout=20).wait
    with (
        admin_port(rows, wait=both_asked) as first,
        admin_port(rows, wait=both_asked) as second,
        admin_port("{}") as damaged,
    ):
        (gone,) = free_ports(1)
        assert models_of(first, second, damaged, gone, within=20) == (
            ModelStatus(name="iris", version="7", digest="d", state="live", loaded_at=5.0),
        )


def test_a_replica_that_hangs_is_not_waited_for_long() -> None:
    asked_in_vain = threading.Event()
    with admin_port(json.dumps([ROW]), wait=lambda: asked_in_vain.wait(20)) as port:
        began = time.monotonic()
        assert models_of(port) == ()
        assert time.monotonic() - began < DEADLINE + 0.5
        asked_in_vain.set()
