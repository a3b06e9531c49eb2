"""The documents of the operator's HTTP API, shared by both ends.

Every request carries `Authorization: Bearer <token>`; every error is `Problem` with a 4xx or 5xx status.

    GET    /v1/info                         Info (the only route without a token: says only what listens here)
    HEAD   /v1/projects/{digest}            200 or 404
    PUT    /v1/projects/{digest}            archive (tar.gz) → 201; 200 when it was there already
    POST   /v1/deploy                       DeployRequest → DeployResponse
    GET    /v1/deployments/{id}?wait=S      Deployment; with wait, answers when it changed since
                                            `after=<sequence>`, or after S (≤ 30) seconds
    GET    /v1/apis                         list[ApiStatus]
    GET    /v1/apis/{name}                  ApiStatus
    DELETE /v1/apis/{name}?keep_cache=BOOL  Message; returns when replicas and route are gone
    POST   /v1/apis/{name}/refresh?force=BOOL      ApiResult
    POST   /v1/apis/{name}/rollback         RollbackRequest → ApiResult
    GET    /v1/apis/{name}/history          list[HistoryEntry], one a deployment, newest first
    GET    /v1/apis/{name}/logs?tail=N&since=S&replica=ID&follow=BOOL
                                            text/plain, a `LogRecord` (JSON) a line; ends when the client leaves
    GET    /v1/events?api=NAME&tail=N       list[Event], oldest first
    POST   /v1/shutdown?replicas=BOOL       Message; stops the operator; with replicas=true all it runs first

Strict on what people write, lenient on what other versions send: unknown fields are ignored, new ones have
defaults.
"""

from __future__ import annotations

from typing import Any, Literal

from cortex_core.spec.types import Api, Struct

Action = Literal["creating", "updating", "up to date", "already updating", "unchanged", "failed"]
"""What a deploy did with one API; "unchanged" is a dry run's word for "up to date"."""

DeploymentState = Literal["preparing", "starting", "switching", "live", "failed", "superseded"]

StatusCode = Literal[
    "status_live",
    "status_updating",
    "status_error",
    "status_error_image_pull",
    "status_oom",
    "status_stalled",
    "status_unknown",
]


class Info(Struct, frozen=True):
    """Who answers."""

    version: str
    service: str = "cortex-operator"
    backend: str = "process"
    gateway: str = ""
    """URL under which the APIs are reached."""
    pid: int = 0


class DocumentProblem(Struct, frozen=True):
    """One problem in an API file; see `cortex_core.spec.problems.Problem`."""

    line: int
    column: int
    text: str


class Problem(Struct, frozen=True):
    """Why a request was refused.

    Attributes:
        code: stable word: invalid_config, invalid_project, not_found, conflict, unauthorized, bad_request,
            failed, timed_out, unavailable (the operator cannot use its database), internal.
        problems: for invalid_config: all of them, rendered as `cortex validate` shows them.
    """

    code: str
    message: str
    request_id: str = ""
    hint: str | None = None
    problems: tuple[DocumentProblem, ...] = ()


class Message(Struct, frozen=True):
    message: str


class DeployRequest(Struct, frozen=True):
    """Deploy the APIs of one file.

    Attributes:
        config: the file's text.
        config_name: its name, for messages.
        project_digest: an uploaded project; None is `patch`: each API keeps the project it has.
        folder: that of the file, absolute, on the operator's machine; what local paths in it are relative to.
            None: the file lies elsewhere, and no path in it may be relative.
        force: take over from an update in progress.
        dry_run: say what would happen, do nothing.
    """

    config: str
    config_name: str = "cortex.yaml"
    project_digest: str | None = None
    folder: str | None = None
    force: bool = False
    dry_run: bool = False


class Change(Struct, frozen=True):
    """One difference between what is deployed and what is asked for, e.g. path "handler.config.threshold".

    Attributes:
        before, after: as it stands in a file ("20ms", not nanoseconds); None for what is not there.
    """

    path: str
    before: Any = None
    after: Any = None


class ApiResult(Struct, frozen=True):
    """What happened to one API.

    Attributes:
        deployment_id: to follow with GET /v1/deployments/{id}; None when there is nothing to wait for.
        replaces_replicas: whether running replicas are replaced.
        notices: parts of the spec that have no effect on this backend.
        error: set when this API failed or was refused; the others of the file are not affected.
        code: with an error, what kind it is; the words of `Problem.code`.
    """

    name: str
    kind: str
    action: Action
    message: str
    release_id: str | None = None
    deployment_id: str | None = None
    replaces_replicas: bool = False
    changes: tuple[Change, ...] = ()
    notices: tuple[str, ...] = ()
    error: str | None = None
    code: str | None = None


class DeployResponse(Struct, frozen=True):
    results: tuple[ApiResult, ...]


class RollbackRequest(Struct, frozen=True):
    """Release to go back to; None is the one before the current."""

    release_id: str | None = None


class Deployment(Struct, frozen=True):
    """A release on its way to being live.

    Attributes:
        sequence: grows with every change of this deployment.
        progress: what is going on, in a few words ("installing 3 packages", "1 of 2 replicas ready").
        error: why it failed.
        log_tail: the failing replica's last log lines (message and traceback, as text).
    """

    id: str
    api: str
    release_id: str
    state: DeploymentState
    sequence: int
    replicas_requested: int
    replicas_ready: int
    progress: str = ""
    error: str | None = None
    log_tail: tuple[str, ...] = ()
    started_at: float = 0.0
    finished_at: float | None = None


class GroupCounts(Struct, frozen=True):
    """Replicas of one generation, by state."""

    pending: int = 0
    initializing: int = 0
    ready: int = 0
    err_image_pull: int = 0
    terminating: int = 0
    failed: int = 0
    killed: int = 0
    killed_oom: int = 0
    stalled: int = 0
    unknown: int = 0


class ReplicaCounts(Struct, frozen=True):
    requested: int
    updated: GroupCounts
    stale: GroupCounts


class ReplicaStatus(Struct, frozen=True):
    """One replica, for `get`.

    Attributes:
        port, ports: where it serves: the first, and all of them, usually one for each of its processes.
        failure: why it last died, or what it lost.
        waiting_for: what one that is not ready says it waits for.
    """

    id: str
    release_id: str
    state: str
    restarts: int = 0
    failure: str | None = None
    waiting_for: str | None = None
    pid: int | None = None
    port: int | None = None
    ports: tuple[int, ...] = ()
    admin_port: int | None = None
    in_flight: int = 0
    started_at: float | None = None


class Status(Struct, frozen=True):
    status_code: StatusCode
    status: str
    """As people read it: live, updating, error, …"""
    replica_counts: ReplicaCounts
    message: str | None = None
    """The last failure, when there is one to show."""


class NetworkStats(Struct, frozen=True):
    """Counted at the gateway since the API was last created; latency is the mean in milliseconds."""

    latency: float | None = None
    code_2xx: int = 0
    code_4xx: int = 0
    code_5xx: int = 0
    total: int = 0


class Metrics(Struct, frozen=True):
    network_stats: NetworkStats = NetworkStats()


ModelState = Literal["pending", "available", "fetching", "loading", "ready", "live", "failed"]
"""Of one version of a model, in the order of its life.

    pending     seen, but its upload may not be complete
    available   can be asked for; not in memory
    fetching    on its way to this machine
    loading     on its way into memory
    ready       in memory of every worker, but another version is the latest
    live        what "latest" means: requests get it
    failed      cannot be fetched or loaded; `error` says why
"""


class ModelStatus(Struct, frozen=True):
    """One version of a model: in one replica (its `/models`), or in all that are ready (`ApiStatus`).

    Of several replicas, each version and content (digest) has one row: `failed` if it failed in one of them, with the
    replica's id before the error unless it failed in all in the same way; otherwise the state of the one that is least
    far. So it is live if it is live in all that have it, for a moment none while replicas change over one by one.
    `loaded_at` is of the last one to load it, `checked_at` of the one that has not listed for the longest.

    Attributes:
        name: the API's name for the model of `path`.
        digest: of its files' names, sizes and etags; the first 12 hex digits.
        loaded_at: when it came into memory of every worker, seconds since the epoch.
        error: why it failed, or what is wrong with it.
        modified_at: when its newest file was written, seconds since the epoch.
        checked_at: when its location was last listed successfully, seconds since the epoch.
    """

    name: str
    version: str
    digest: str
    state: ModelState
    loaded_at: float | None = None
    error: str | None = None
    modified_at: float | None = None
    checked_at: float | None = None


class ApiStatus(Struct, frozen=True):
    """One API as `cortex get -o json` shows it.

    Attributes:
        spec: the live release's, with defaults (plus id, last_updated, project_id in `release`).
        endpoint: full URL through the gateway.
        grpc_ports: of a gRPC API: where the gateway speaks it without TLS, as {"insecure": port}.
        api_versions: release ids, newest first.
    """

    spec: Api
    status: Status
    endpoint: str
    release_id: str
    last_updated: float
    deployment_id: str | None = None
    project_id: str = ""
    metrics: Metrics = Metrics()
    models: tuple[ModelStatus, ...] = ()
    replicas: tuple[ReplicaStatus, ...] = ()
    api_versions: tuple[str, ...] = ()
    grpc_ports: dict[str, int] | None = None


class HistoryEntry(Struct, frozen=True):
    """One deployment of a release.

    Attributes:
        deployed_at: when it began, seconds since the epoch.
        reason: deploy, patch, refresh or rollback.
        state: how far it got.
        current: whether it made live what is live now; of one entry at most.
    """

    release_id: str
    deployed_at: float
    reason: str
    state: DeploymentState
    current: bool
    project_id: str = ""


class LogRecord(Struct, frozen=True):
    """One line of a replica's log; `line` is the JSON object as written."""

    replica: str
    line: str


class Event(Struct, frozen=True):
    """Something the operator did or saw."""

    at: float
    api: str
    level: Literal["info", "warning", "error"]
    message: str
    deployment_id: str | None = None
