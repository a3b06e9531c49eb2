"""The operator's HTTP API over a real socket, in front of fakes."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn
from support.operators import World, config, packed

from cortex_core import operator_api
from cortex_operator.auth import local_hosts
from cortex_operator.backends.protocol import LogLine
from cortex_operator.clock import SystemClock
from cortex_operator.http import MAX_DOCUMENT_BYTES, MAX_PROJECT_BYTES, create_app

TOKEN = "5" * 64


class Running:
    """An operator over fakes that serves on a free port, in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder)
        self.stopped = threading.Event()
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._serving = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._serving.wait(10)
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers={"authorization": f"Bearer {TOKEN}"}, timeout=10
        )

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        operator = await self.world.start(SystemClock())

        async def ready() -> None:
            pass

        app = create_app(
            operator,
            token=TOKEN,
            hosts=local_hosts(self.port),
            stop=self.stopped.set,
            ready=ready,
            uploads=self.world.home.operator,
        )
        self._server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1)
        )
        self._serving.set()
        await self._server.serve(sockets=[self._listener])
        if not self.stopped.is_set():
            await operator.close()

    def stop(self) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join(15)
        assert not self._thread.is_alive()

    def on_loop(self, what: Callable[[], Any]) -> None:
        """Change a fake from where the operator runs."""
        self._loop.call_soon_threadsafe(what)

    def upload(self, code: str = "first") -> str:
        content, digest = packed(code)
        assert self.client.put(f"/v1/projects/{digest}", content=content).status_code in (200, 201)
        return digest

    def deploy(self, text: str, code: str = "first", **more: Any) -> dict[str, Any]:
        answer = self.client.post(
            "/v1/deploy", json={"config": text, "project_digest": self.upload(code), **more}
        )
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["results"][0])

    def live(self, text: str = "", code: str = "first") -> dict[str, Any]:
        """Deploy and wait until it is over."""
        deployment, after = self.deploy(text or config(), code)["deployment_id"], 0
        while True:
            answer = self.client.get(
                f"/v1/deployments/{deployment}", params={"wait": 5, "after": after}
            ).json()
            after = answer["sequence"]
            if answer["finished_at"] is not None:
                return dict(answer)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    operator = Running(tmp_path)
    yield operator
    operator.stop()


def problem(answer: httpx.Response) -> operator_api.Problem:
    assert answer.headers["content-type"] == "application/json"
    found = msgspec.json.decode(answer.content, type=operator_api.Problem)
    assert found.request_id == answer.headers["x-request-id"]
    return found


def test_info_needs_no_token(running: Running) -> None:
    answer = httpx.get(f"http://127.0.0.1:{running.port}/v1/info")
    info = msgspec.json.decode(answer.content, type=operator_api.Info)
    assert (answer.status_code, info.service, info.backend) == (200, "cortex-operator", "fake")


EVERYTHING_ELSE = [
    ("HEAD", "/v1/projects/x"), ("PUT", "/v1/projects/x"), ("POST", "/v1/deploy"),
    ("GET", "/v1/deployments/x"), ("GET", "/v1/apis"), ("GET", "/v1/apis/x"), ("DELETE", "/v1/apis/x"),
    ("POST", "/v1/apis/x/refresh"), ("POST", "/v1/apis/x/rollback"), ("GET", "/v1/apis/x/history"),
    ("GET", "/v1/apis/x/logs"), ("GET", "/v1/events"), ("POST", "/v1/shutdown"), ("GET", "/nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), EVERYTHING_ELSE)
@pytest.mark.parametrize("header", [None, "Bearer " + "6" * 64, "Basic " + TOKEN])
def test_everything_else_needs_the_token(
    running: Running, method: str, path: str, header: str | None
) -> None:
    headers = {} if header is None else {"authorization": header}
    answer = httpx.request(method, f"http://127.0.0.1:{running.port}{path}", headers=headers)
    assert answer.status_code == 401
    if method != "HEAD":
        assert problem(answer).code == "unauthorized"
    assert not running.stopped.is_set()


@pytest.mark.parametrize(
    "headers",
    [{"host": "evil.test"}, {"host": "evil.test:1"}, {"origin": "http://evil.test"}, {"origin": "null"}],
)
def test_requests_by_way_of_a_web_page_are_refused(running: Running, headers: dict[str, str]) -> None:
    for path in ("/v1/info", "/v1/apis"):
        answer = running.client.get(path, headers=headers)
        assert answer.status_code == 403
        assert problem(answer).code == "unauthorized"
    assert "access-control-allow-origin" not in running.client.get("/v1/info").headers


def test_from_upload_to_delete(running: Running) -> None:
    content, digest = packed("first")
    assert running.client.head(f"/v1/projects/{digest}").status_code == 404
    assert running.client.put(f"/v1/projects/{digest}", content=content).status_code == 201
    assert running.client.put(f"/v1/projects/{digest}", content=content).status_code == 200
    assert running.client.head(f"/v1/projects/{digest}").status_code == 200

    deployment = running.live()
    assert deployment["state"] == "live"
    assert set(deployment) == {each.name for each in msgspec.structs.fields(operator_api.Deployment)}
    (api,) = msgspec.json.decode(running.client.get("/v1/apis").content, type=list[operator_api.ApiStatus])
    assert api.status.status_code == "status_live"
    assert running.client.get("/v1/apis/iris").json()["release_id"] == api.release_id

    refreshed = running.client.post("/v1/apis/iris/refresh")
    assert (refreshed.status_code, refreshed.json()["action"]) == (200, "updating")
    running.live(config(value="2"))
    history = running.client.get("/v1/apis/iris/history").json()
    assert [each["current"] for each in history] == [True, False, False]
    assert [each["reason"] for each in history] == ["deploy", "refresh", "deploy"]
    back = running.client.post("/v1/apis/iris/rollback", json={})
    assert back.json()["release_id"] == api.release_id

    events = running.client.get("/v1/events", params={"api": "iris", "tail": 2}).json()
    assert len(events) == 2
    deleted = running.client.delete("/v1/apis/iris")
    assert deleted.json() == {"message": "deleted iris"}
    assert running.client.get("/v1/apis").json() == []


def test_a_dry_run_says_what_would_happen(running: Running) -> None:
    assert running.deploy(config(), dry_run=True)["action"] == "creating"
    assert running.client.get("/v1/apis").json() == []
    running.live()
    assert running.deploy(config(), dry_run=True)["action"] == "unchanged"
    planned = running.deploy(config(value="2"), dry_run=True)
    assert planned["changes"] == [{"path": "handler.config.value", "before": "1", "after": "2"}]
    assert planned["replaces_replicas"] is True


def test_a_failed_deployment_says_why(running: Running) -> None:
    running.world.backend.behaviour[packed("bad")[1]] = "broken handler"
    deployment = running.live(config(), "bad")
    assert deployment["state"] == "failed"
    assert "cannot be loaded" in deployment["error"]
    assert deployment["log_tail"][-1] == "KeyError: 1"


def test_problems_of_a_file_come_with_positions(running: Running) -> None:
    text = config().replace("handler.py", "missing.py").replace("config:", "confg:")
    answer = running.client.post(
        "/v1/deploy", json={"config": text, "config_name": "my.yaml", "project_digest": running.upload()}
    )
    assert answer.status_code == 400
    refused = problem(answer)
    assert refused.code == "invalid_config"
    assert [each.line for each in refused.problems] == [5, 6]
    assert refused.problems[1].text.startswith("my.yaml:6:5: iris.handler.confg: unknown key")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/v1/apis/nothing", None, 404, "not_found"),
        ("DELETE", "/v1/apis/nothing", None, 404, "not_found"),
        ("GET", "/v1/apis/nothing/history", None, 404, "not_found"),
        ("GET", "/v1/apis/nothing/logs", None, 404, "not_found"),
        ("POST", "/v1/apis/nothing/refresh", None, 404, "not_found"),
        ("POST", "/v1/apis/nothing/rollback", b"{}", 404, "not_found"),
        ("GET", "/v1/deployments/nothing", None, 404, "not_found"),
        ("GET", "/v1/nothing", None, 404, "not_found"),
        ("DELETE", "/v1/deploy", None, 404, "not_found"),
        ("POST", "/v1/deploy", b"", 400, "bad_request"),
        ("POST", "/v1/deploy", b"{", 400, "bad_request"),
        ("POST", "/v1/deploy", b'{"config": 3}', 400, "bad_request"),
        ("POST", "/v1/deploy", b'{"config": "' + b"\xff" + b'"}', 400, "bad_request"),
        ("POST", "/v1/deploy", b"[" * 100_000, 400, "bad_request"),
        ("POST", "/v1/deploy", b'{"config": "[]", "project_digest": "../x"}', 400, "bad_request"),
        ("POST", "/v1/deploy", b'{"config": "[]"}', 400, "invalid_config"),
        ("POST", "/v1/deploy", b" " * (MAX_DOCUMENT_BYTES + 1), 413, "bad_request"),
        ("PUT", "/v1/projects/short", b"", 400, "bad_request"),
        ("PUT", "/v1/projects/..%2F..%2Fx", b"", 404, "not_found"),
        ("PUT", "/v1/projects/" + "0" * 64, b"not an archive", 400, "invalid_project"),
        ("PUT", "/v1/projects/" + "0" * 64, packed("other")[0], 400, "invalid_project"),
        ("GET", "/v1/deployments/x?wait=31", None, 400, "bad_request"),
        ("GET", "/v1/deployments/x?after=-1", None, 400, "bad_request"),
        ("GET", "/v1/events?tail=many", None, 400, "bad_request"),
        ("GET", "/v1/apis/x/logs?follow=perhaps", None, 400, "bad_request"),
    ],
)
def test_errors(running: Running, method: str, path: str, body: bytes | None, status: int, code: str) -> None:
    answer = running.client.request(method, path, content=body)
    assert (answer.status_code, problem(answer).code) == (status, code)
    assert problem(answer).message


def test_an_update_in_progress_is_a_conflict(running: Running) -> None:
    running.live()
    running.world.backend.behaviour[packed("slow")[1]] = "slow"
    running.deploy(config(), "slow")
    answer = running.client.post("/v1/apis/iris/rollback", json={})
    assert (answer.status_code, problem(answer).code) == (409, "conflict")


def test_a_kind_or_an_endpoint_that_cannot_be_had_now_is_a_conflict(running: Running) -> None:
    running.live()
    text = config("other", endpoint="/iris")
    project = running.upload("first")
    answer = running.client.post("/v1/deploy", json={"config": text, "project_digest": project})
    assert (answer.status_code, problem(answer).code) == (409, "conflict")
    assert len(problem(answer).problems) == 1


def test_what_nobody_foresaw_is_an_internal_error(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    running.live()
    running.world.backend.observe = broken  # type: ignore[assignment, method-assign]  # a backend with a defect
    answer = running.client.get("/v1/apis")
    found = problem(answer)
    assert (answer.status_code, found.code) == (500, "internal")
    assert "ZeroDivision" not in answer.text
    (record,) = [each for each in caplog.records if found.request_id in each.getMessage()]
    assert record.exc_info is not None


def test_nothing_is_left_of_a_refused_or_broken_upload(running: Running) -> None:
    digest = "0" * 64
    assert running.client.put(f"/v1/projects/{digest}", content=b"x" * 100_000).status_code == 400
    head = f"PUT /v1/projects/{digest} HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\n"
    head += f"Authorization: Bearer {TOKEN}\r\nContent-Length: "
    with socket.create_connection(("127.0.0.1", running.port), timeout=5) as connection:
        connection.sendall(f"{head}{MAX_PROJECT_BYTES + 1}\r\n\r\nx".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    with socket.create_connection(("127.0.0.1", running.port)) as connection:
        connection.sendall(f"{head}1000\r\n\r\nhalf".encode())
    assert running.client.head(f"/v1/projects/{digest}").status_code == 404
    until(lambda: not [each for each in running.world.home.operator.iterdir() if "upload" in each.name])
    assert not (running.world.home.bucket / "projects").exists()


def test_logs_are_lines_and_end_when_the_client_leaves(running: Running) -> None:
    running.live()
    lines = [
        LogLine(replica=f"iris-x-{number % 2}", text=json.dumps({"message": str(number)}))
        for number in range(5)
    ]
    running.world.backend.lines["iris"] = lines
    answer = running.client.get("/v1/apis/iris/logs", params={"tail": 2, "replica": "iris-x-0"})
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    records = [msgspec.json.decode(line, type=operator_api.LogRecord) for line in answer.text.splitlines()]
    assert [(each.replica, each.line) for each in records] == [
        ("iris-x-0", '{"message": "2"}'),
        ("iris-x-0", '{"message": "4"}'),
    ]

    with running.client.stream("GET", "/v1/apis/iris/logs", params={"follow": "true"}) as stream:
        following = stream.iter_lines()
        assert [msgspec.json.decode(next(following), type=operator_api.LogRecord).line for _ in lines] == [
            each.text for each in lines
        ]
        until(lambda: running.world.backend.followed == 1)
    until(lambda: running.world.backend.followed == 0)


def test_who_waits_for_a_deployment_hears_of_a_change_at_once(running: Running) -> None:
    running.world.backend.behaviour[packed("first")[1]] = "slow"
    result = running.deploy(config())
    url = f"/v1/deployments/{result['deployment_id']}"
    until(lambda: running.client.get(url).json()["progress"] == "0 of 1 replicas ready")
    after = running.client.get(url).json()["sequence"]
    (replica,) = running.world.backend.of("iris")
    threading.Timer(
        0.2, lambda: running.on_loop(lambda: running.world.backend.set(replica.id, state="ready"))
    ).start()
    before = time.monotonic()
    answer = running.client.get(url, params={"wait": 8, "after": after}).json()
    assert answer["sequence"] > after
    assert time.monotonic() - before < 5


def test_shutdown_stops_the_operator_and_if_asked_all_that_runs(running: Running) -> None:
    running.live()
    answer = running.client.post("/v1/shutdown", params={"replicas": "true"})
    assert answer.status_code == 200
    assert running.stopped.is_set()
    assert running.world.backend.replicas == {}
    assert not running.world.gateway.running


def until(condition: Callable[[], bool], within: float = 5.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)
