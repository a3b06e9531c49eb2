"""The operator's HTTP API (`cortex_core.operator_api`) as methods.

Every call has a deadline. Refusals come back as the exceptions of `cortex_core.errors`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec

from cortex_core.errors import Conflict, CortexError, InvalidProject, NotFound, OperatorUnreachable, TimedOut
from cortex_core.operator_api import (
    ApiResult,
    ApiStatus,
    Deployment,
    DeployRequest,
    DeployResponse,
    HistoryEntry,
    Info,
    LogRecord,
    Message,
    Problem,
    RollbackRequest,
)

CONNECT_TIMEOUT = 5.0
ANSWER_TIMEOUT = 30.0
DEPLOY_TIMEOUT = 120.0
"""Seconds for calls that list models, and wait until others have done so."""
STOP_TIMEOUT = 180.0
"""Seconds for calls that return when replicas are gone: their grace period and then some."""
QUIET_LOG = 60.0
"""Seconds without a log line after which a followed log is asked for anew: a dead connection shows."""
OTHER_PORTS = "choose other ports with CORTEX_OPERATOR_PORT and CORTEX_GATEWAY_PORT"

_EXCEPTIONS: Mapping[str, type[CortexError]] = {
    "invalid_project": InvalidProject,
    "not_found": NotFound,
    "conflict": Conflict,
    "timed_out": TimedOut,
    "unavailable": OperatorUnreachable,
}

T = TypeVar("T")


def exception_of(code: str | None) -> type[CortexError]:
    """What a `Problem.code` is raised as."""
    return _EXCEPTIONS.get(code or "", CortexError)


class NotAnOperator(OperatorUnreachable):
    """Something else answers at the operator's address."""


class OperatorClient:
    """A connection to one operator.

    Args:
        endpoint: its URL.
        token: its shared secret; None only for `info`.
        environment: the environment's name, for messages.
        transport: how requests travel; httpx's own unless given.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        token: str | None,
        environment: str,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.environment = environment
        is_plain = endpoint.startswith("http://")
        self._http = httpx.Client(
            base_url=endpoint,
            headers={"authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(ANSWER_TIMEOUT, connect=CONNECT_TIMEOUT),
            verify=not is_plain,  # loading the certificates costs 30 ms
            trust_env=not is_plain,  # a proxy has no business between here and the loopback address
            transport=transport,
        )

    def close(self) -> None:
        self._http.close()

    def info(self) -> Info:
        """Who answers there.

        Raises:
            OperatorUnreachable: nobody, or not an operator.
        """
        response = self._send("GET", "/v1/info")
        try:
            info = msgspec.json.decode(response.content, type=Info)
        except msgspec.DecodeError as error:
            raise self._not_an_operator() from error
        if response.status_code != httpx.codes.OK or info.service != "cortex-operator":
            raise self._not_an_operator()
        return info

    def has_project(self, digest: str) -> bool:
        return self._send("HEAD", f"/v1/projects/{digest}").status_code == httpx.codes.OK

    def upload_project(self, digest: str, archive: Path) -> None:
        """Store a packed project; does nothing where it is stored already."""
        if self.has_project(digest):
            return
        headers = {"content-type": "application/gzip", "content-length": str(archive.stat().st_size)}
        with archive.open("rb") as content:
            self._checked(self._send("PUT", f"/v1/projects/{digest}", content=content, headers=headers))

    def deploy(self, request: DeployRequest) -> tuple[ApiResult, ...]:
        return self._post("/v1/deploy", request, DeployResponse, timeout=DEPLOY_TIMEOUT).results

    def deployment(self, deployment_id: str, *, wait: float = 0, after: int | None = None) -> Deployment:
        """How far a deployment is.

        Args:
            wait: at most so many seconds (≤ 30) for something newer than `after`.
            after: the sequence of the last answer.
        """
        params = {"wait": f"{wait:g}"} if wait else {}
        if after is not None:
            params["after"] = str(after)
        return self._get(f"/v1/deployments/{deployment_id}", Deployment, params=params)

    def apis(self) -> list[ApiStatus]:
        return self._get("/v1/apis", list[ApiStatus])

    def api(self, name: str) -> ApiStatus:
        return self._get(f"/v1/apis/{name}", ApiStatus)

    def delete(self, name: str, *, keep_cache: bool) -> Message:
        params = {"keep_cache": _boolean(keep_cache)}
        response = self._send("DELETE", f"/v1/apis/{name}", params=params, timeout=STOP_TIMEOUT)
        return self._decoded(response, Message)

    def refresh(self, name: str, *, force: bool) -> ApiResult:
        return self._post(f"/v1/apis/{name}/refresh", None, ApiResult, params={"force": _boolean(force)})

    def rollback(self, name: str, *, release_id: str | None) -> ApiResult:
        return self._post(f"/v1/apis/{name}/rollback", RollbackRequest(release_id=release_id), ApiResult)

    def history(self, name: str) -> list[HistoryEntry]:
        """Releases, newest first."""
        return self._get(f"/v1/apis/{name}/history", list[HistoryEntry])

    def logs(
        self,
        name: str,
        *,
        tail: int | None = None,
        since: float | None = None,
        replica: str | None = None,
        follow: bool = False,
    ) -> Iterator[LogRecord]:
        """The API's log, oldest line first.

        Args:
            tail: only the newest so many lines.
            since: seconds since the epoch.
            replica: only this one.
            follow: go on until the caller stops.
        """
        last_line_at = time.time()
        while True:
            params = {"follow": _boolean(follow)}
            optional = {"tail": tail, "since": since, "replica": replica}
            params |= {key: str(value) for key, value in optional.items() if value is not None}
            try:
                for record in self._log_lines(name, params):
                    last_line_at = time.time()
                    yield record
            except TimedOut:
                if not follow:
                    raise
            else:
                return
            tail, since = None, last_line_at

    def shutdown(self, *, replicas: bool) -> Message:
        """Stop the operator, and with `replicas` first everything it runs."""
        params = {"replicas": _boolean(replicas)}
        response = self._send("POST", "/v1/shutdown", params=params, timeout=STOP_TIMEOUT)
        return self._decoded(response, Message)

    def _log_lines(self, name: str, params: dict[str, str]) -> Iterator[LogRecord]:
        timeout = httpx.Timeout(ANSWER_TIMEOUT, connect=CONNECT_TIMEOUT, read=QUIET_LOG)
        with self._reachable(), self._http.stream(
            "GET", f"/v1/apis/{name}/logs", params=params, timeout=timeout
        ) as response:  # fmt: skip
            if response.is_error:
                response.read()
                self._checked(response)
            for line in response.iter_lines():
                if line:
                    yield msgspec.json.decode(line, type=LogRecord)

    def _get(self, path: str, answer: type[T], *, params: dict[str, str] | None = None) -> T:
        return self._decoded(self._send("GET", path, params=params), answer)

    def _post(
        self,
        path: str,
        body: object,
        answer: type[T],
        *,
        params: dict[str, str] | None = None,
        timeout: float = ANSWER_TIMEOUT,
    ) -> T:
        content = b"" if body is None else msgspec.json.encode(body)
        headers = {"content-type": "application/json"}
        limits = httpx.Timeout(timeout, connect=CONNECT_TIMEOUT)
        return self._decoded(
            self._send("POST", path, content=content, params=params, headers=headers, timeout=limits), answer
        )

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        with self._reachable():
            return self._http.request(method, path, **options)

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectTimeout as error:
            raise self._unreachable() from error
        except httpx.TimeoutException as error:
            raise TimedOut(f"the operator at {self.endpoint} did not answer in time") from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise self._unreachable() from error

    def _decoded(self, response: httpx.Response, answer: type[T]) -> T:
        self._checked(response)
        try:
            return msgspec.json.decode(response.content, type=answer)
        except msgspec.DecodeError as error:
            raise self._not_an_operator() from error

    def _checked(self, response: httpx.Response) -> None:
        """Raise what the operator's refusal means."""
        if not response.is_error:
            return
        try:
            problem = msgspec.json.decode(response.content, type=Problem)
        except msgspec.DecodeError as error:
            if response.is_server_error:
                raise CortexError(
                    f"the operator at {self.endpoint} failed: {response.status_code}"
                ) from error
            raise self._not_an_operator() from error
        if problem.code == "unauthorized":
            raise self._unauthorized()
        more = [each.text for each in problem.problems if each.text not in problem.message]
        raise exception_of(problem.code)("\n".join([problem.message, *more]), hint=problem.hint)

    def _unreachable(self) -> OperatorUnreachable:
        return OperatorUnreachable(
            f"no operator answers at {self.endpoint} (environment '{self.environment}')",
            hint="check the address with: cortex env list",
        )

    def _not_an_operator(self) -> NotAnOperator:
        return NotAnOperator(
            f"what answers at {self.endpoint} (environment '{self.environment}') is not a Cortex operator",
            hint=OTHER_PORTS if self.environment == "local" else "check the address with: cortex env list",
        )

    def _unauthorized(self) -> CortexError:
        if self.environment == "local":
            return Conflict(
                f"the operator at {self.endpoint} belongs to another CORTEX_HOME",
                hint=OTHER_PORTS,
            )
        return CortexError(
            f"the operator at {self.endpoint} does not accept the token of environment '{self.environment}'",
            hint=f"set it with: cortex env configure {self.environment} --token TOKEN",
        )


def _boolean(value: bool) -> str:
    return "true" if value else "false"
