"""An operator that runs nothing: it speaks `cortex_core.operator_api` and goes through given steps."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cortex_core.operator_api import (
    ApiResult,
    ApiStatus,
    Change,
    Deployment,
    DeployRequest,
    DeployResponse,
    GroupCounts,
    HistoryEntry,
    Info,
    LogRecord,
    Message,
    Problem,
    ReplicaCounts,
    ReplicaStatus,
    Status,
)
from cortex_core.spec.load import load
from cortex_core.spec.types import Api, kind_of
from cortex_core.version import __version__

TOKEN = "0123456789abcdef"
STARTED = time.time() - 4 * 86400 - 2 * 3600 - 600
"""When everything was started: `4d2h` ago."""


@dataclass
class FakeOperator:
    """What a test sets before, and looks at after.

    Attributes:
        steps: what each deployment goes through after its first state, one a question.
        refusal: answer to every request but `/v1/info`.
        requests: method and path of each request, in order.
        asked: what was to be deployed.
        conflict: why no API of a file is deployed.
        looks_before_delete: how often an API is asked for before its deletion ends.
    """

    version: str = __version__
    steps: tuple[dict[str, Any], ...] = ({"state": "starting"}, {"state": "live", "replicas_ready": 1})
    refusal: tuple[int, Problem] | None = None
    apis: dict[str, ApiStatus] = field(default_factory=dict)
    history: dict[str, list[HistoryEntry]] = field(default_factory=dict)
    logs: dict[str, list[LogRecord]] = field(default_factory=dict)
    projects: dict[str, bytes] = field(default_factory=dict)
    deployments: dict[str, Deployment] = field(default_factory=dict)
    conflict: str | None = None
    looks_before_delete: int = 0
    requests: list[str] = field(default_factory=list)
    calls: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    asked: list[DeployRequest] = field(default_factory=list)
    endpoint: str = ""
    _remaining: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _wanted: dict[str, tuple[Api, str]] = field(default_factory=dict)

    def deployed(self, text: str, *, ready: int = 1, **changes: Any) -> None:
        """Have an API of this file live."""
        for spec in load(text):
            self.apis[spec.name] = msgspec.structs.replace(
                self._status(spec, "1" * 16, ready=ready), **changes
            )

    def app(self) -> Starlette:
        routes = [
            Route("/v1/info", self._info),
            Route("/v1/projects/{digest}", self._project, methods=["HEAD", "PUT"]),
            Route("/v1/deploy", self._deploy, methods=["POST"]),
            Route("/v1/deployments/{id}", self._deployment),
            Route("/v1/apis", self._list),
            Route("/v1/apis/{name}", self._api, methods=["GET", "DELETE"]),
            Route("/v1/apis/{name}/refresh", self._again, methods=["POST"]),
            Route("/v1/apis/{name}/rollback", self._again, methods=["POST"]),
            Route("/v1/apis/{name}/history", self._history),
            Route("/v1/apis/{name}/logs", self._logs),
            Route("/api/{name}", self._call, methods=["GET", "POST", "PUT"]),
        ]
        return Starlette(routes=routes)

    def _refused(self, request: Request) -> Response | None:
        self.requests.append(f"{request.method} {request.url.path}")
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return _json(Problem(code="unauthorized", message="wrong token"), 401)
        if self.refusal is not None:
            return _json(self.refusal[1], self.refusal[0])
        name = request.path_params.get("name")
        if name is not None and name not in self.apis:
            return _json(Problem(code="not_found", message=f"there is no API '{name}'"), 404)
        return None

    async def _info(self, _: Request) -> Response:
        return _json(Info(version=self.version, gateway=self.endpoint))

    async def _project(self, request: Request) -> Response:
        refused = self._refused(request)
        if refused is not None:
            return refused
        digest = request.path_params["digest"]
        if request.method == "HEAD":
            return Response(status_code=200 if digest in self.projects else 404)
        self.projects[digest] = await request.body()
        return Response(status_code=201)

    async def _deploy(self, request: Request) -> Response:
        refused = self._refused(request)
        if refused is not None:
            return refused
        wanted = msgspec.json.decode(await request.body(), type=DeployRequest)
        self.asked.append(wanted)
        if wanted.project_digest is not None and wanted.project_digest not in self.projects:
            return _json(Problem(code="not_found", message="no such project"), 404)
        apis = load(wanted.config, filename=wanted.config_name)
        return _json(DeployResponse(results=tuple(self._begin(api, wanted.dry_run) for api in apis)))

    def _begin(self, spec: Api, dry_run: bool) -> ApiResult:
        if self.conflict is not None:
            return ApiResult(
                name=spec.name, kind=kind_of(spec), action="failed", message=self.conflict,
                error=self.conflict, code="conflict",
            )  # fmt: skip
        known = self.apis.get(spec.name)
        if known is not None and known.spec == spec:
            action = "unchanged" if dry_run else "up to date"
            return ApiResult(
                name=spec.name, kind=kind_of(spec), action=action, message=action, release_id="1" * 16
            )
        changes = (Change(path="handler.config.threshold", before=1, after=2),) if known else ()
        return self._result(
            spec, "updating" if known else "creating", "2" * 16, dry_run=dry_run, changes=changes
        )

    def _result(
        self,
        spec: Api,
        action: Any,
        release_id: str,
        *,
        dry_run: bool = False,
        changes: tuple[Change, ...] = (),
    ) -> ApiResult:
        deployment_id = f"d{len(self.deployments)}"
        if not dry_run:
            self._remaining[deployment_id] = list(self.steps)
            self._wanted[deployment_id] = (spec, release_id)
            self.deployments[deployment_id] = Deployment(
                id=deployment_id, api=spec.name, release_id=release_id, state="preparing", sequence=0,
                replicas_requested=1, replicas_ready=0,
            )  # fmt: skip
        return ApiResult(
            name=spec.name, kind=kind_of(spec), action=action, message=f"{action} {spec.name}",
            release_id=release_id, deployment_id=None if dry_run else deployment_id,
            replaces_replicas=True, changes=changes,
        )  # fmt: skip

    async def _deployment(self, request: Request) -> Response:
        refused = self._refused(request)
        if refused is not None:
            return refused
        deployment = self.deployments[request.path_params["id"]]
        remaining = self._remaining[deployment.id]
        if "after" in request.query_params and remaining:
            step = remaining.pop(0)
            deployment = msgspec.structs.replace(deployment, sequence=deployment.sequence + 1, **step)
            self.deployments[deployment.id] = deployment
            if deployment.state == "live":
                spec, release_id = self._wanted[deployment.id]
                self.apis[spec.name] = self._status(spec, release_id, ready=1)
        return _json(deployment)

    async def _list(self, request: Request) -> Response:
        return self._refused(request) or _json(list(self.apis.values()))

    async def _api(self, request: Request) -> Response:
        refused = self._refused(request)
        if refused is not None:
            return refused
        name = request.path_params["name"]
        if request.method == "GET":
            return _json(self.apis[name])
        look = f"GET {request.url.path}"
        enough = self.requests.count(look) + self.looks_before_delete
        deadline = time.monotonic() + 20
        while self.requests.count(look) < enough:
            assert time.monotonic() < deadline, "nobody looks"
            await asyncio.sleep(0.01)
        del self.apis[name]
        return _json(Message(message=f"deleted {name}"))

    async def _again(self, request: Request) -> Response:
        refused = self._refused(request)
        if refused is not None:
            return refused
        body = await request.body()
        wanted = msgspec.json.decode(body)["release_id"] if body else None
        return _json(
            self._result(self.apis[request.path_params["name"]].spec, "updating", wanted or "3" * 16)
        )

    async def _history(self, request: Request) -> Response:
        return self._refused(request) or _json(self.history.get(request.path_params["name"], []))

    async def _logs(self, request: Request) -> Response:
        refused = self._refused(request)
        if refused is not None:
            return refused
        records = self.logs.get(request.path_params["name"], [])
        replica = request.query_params.get("replica")
        chosen = [record for record in records if replica in (None, record.replica)]
        tail = int(request.query_params.get("tail", len(chosen)))
        lines = [msgspec.json.encode(record) + b"\n" for record in chosen[len(chosen) - tail :]]
        return Response(b"".join(lines), media_type="text/plain")

    async def _call(self, request: Request) -> Response:
        """An API behind the gateway: remembers the request, and answers what was asked for by its query."""
        body = await request.body()
        self.calls.append((f"{request.method} {request.url.query}", dict(request.headers), body))
        return Response(body, status_code=int(request.query_params.get("status", 200)))

    def _status(self, spec: Api, release_id: str, *, ready: int) -> ApiStatus:
        return ApiStatus(
            spec=spec,
            status=Status(
                status_code="status_live",
                status="live",
                replica_counts=ReplicaCounts(
                    requested=ready, updated=GroupCounts(ready=ready), stale=GroupCounts()
                ),
            ),
            endpoint=f"{self.endpoint}/api/{spec.name}",
            release_id=release_id,
            last_updated=STARTED,
            replicas=tuple(
                ReplicaStatus(
                    id=f"{spec.name}-{number}", release_id=release_id, state="ready", started_at=STARTED
                )
                for number in range(ready)
            ),
        )


@contextmanager
def serving(operator: FakeOperator, *, port: int) -> Iterator[None]:
    """Answer on a loopback port until the end."""
    operator.endpoint = f"http://127.0.0.1:{port}"
    config = uvicorn.Config(
        operator.app(), host="127.0.0.1", port=port, log_config=None, lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < deadline, "the fake operator did not start"
        time.sleep(0.005)
    yield
    server.should_exit = True
    thread.join(timeout=10)


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")
