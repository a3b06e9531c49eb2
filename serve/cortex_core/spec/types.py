"""The typed form of an API file: what everyone downstream works with.

Names are those of the file. Every default is filled in. Durations are integer nanoseconds, quantities the
string that was typed (`spec/units.py` reads both); sections that stay absent when omitted are `None`.
These classes are also how a spec is stored and shown as JSON, so fields may be added, never renamed; unknown
fields of other versions are ignored when reading.

Nothing here may import YAML or a validator: workers load this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from cortex_core.runtime import REQUEST_TIMEOUT

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:  # only type checkers ask; they cannot see that msgspec hands these options down to subclasses

    def dataclass_transform(**_options):
        return lambda decorated: decorated


Nanoseconds: TypeAlias = int


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Struct(msgspec.Struct, frozen=True, kw_only=True):
    """A value: immutable, built by keyword."""


class Dependencies(Struct):
    pip: str = "requirements.txt"
    conda: str = "conda-packages.txt"
    shell: str = "dependencies.sh"


class Model(Struct):
    """One entry of `paths`."""

    name: str
    path: str
    signature_key: str | None = None


class Models(Struct):
    """`models` and `multi_model_reloading`: exactly one of path, paths and dir is set.

    Attributes:
        swap_policy: how the next version takes over. availability: it is loaded beside the one that serves;
            resource: the one that serves is unloaded first, for models that do not fit into memory twice.
        on_missing: what a location that has become empty means. keep: nothing, what is served stays;
            unload: its models are gone. (One model or version that disappears while others stay is gone.)
        load_timeout: how long `load_model` and `warm_up` may take.
    """

    path: str | None = None
    paths: tuple[Model, ...] | None = None
    dir: str | None = None
    signature_key: str | None = None
    cache_size: int | None = None
    disk_cache_size: int | None = None
    swap_policy: Literal["availability", "resource"] = "availability"
    on_missing: Literal["keep", "unload"] = "keep"
    load_timeout: Nanoseconds = 600 * 10**9


class ServerSideBatching(Struct):
    """Several requests for one call of `handle_post`. At most one of interval and target is set.

    Attributes:
        max_batch_size: most requests in a batch.
        batch_interval: how long the first request of a batch waits for others; None: for nothing but the batch
            that runs.
        target_latency: within which a request shall be answered; batches are kept small enough for it, and what
            could not be answered within it is refused.
    """

    max_batch_size: int
    batch_interval: Nanoseconds | None = None
    target_latency: Nanoseconds | None = None


class Definition(Struct):
    """`definition` of a TaskAPI; the part that `handler` shares with it."""

    path: str
    python_path: str | None = None
    image: str | None = None
    shm_size: str | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    config: dict[str, Any] = {}
    env: dict[str, str] = {}
    dependencies: Dependencies = Dependencies()


class Handler(Definition, kw_only=True):
    """Attributes:
    request_timeout: how long a request may take; the worker of a call that takes longer is replaced. None:
        `cortex_core.runtime.REQUEST_TIMEOUT`.
    """

    type: Literal["python", "tensorflow"]
    protobuf_path: str | None = None
    tensorflow_serving_image: str | None = None
    processes_per_replica: int = 1
    threads_per_process: int = 1
    request_timeout: Nanoseconds | None = None
    models: Models | None = None
    multi_model_reloading: Models | None = None
    server_side_batching: ServerSideBatching | None = None


class Networking(Struct):
    endpoint: str


class Compute(Struct):
    cpu: str | None = "200m"
    mem: str | None = None
    gpu: int = 0
    inf: int = 0
    node_groups: tuple[str, ...] | None = None


class Autoscaling(Struct):
    target_replica_concurrency: float
    min_replicas: int = 1
    max_replicas: int = 100
    init_replicas: int = 1
    max_replica_concurrency: int = 1024
    window: Nanoseconds = 60 * 10**9
    downscale_stabilization_period: Nanoseconds = 300 * 10**9
    upscale_stabilization_period: Nanoseconds = 60 * 10**9
    max_downscale_factor: float = 0.75
    max_upscale_factor: float = 1.5
    downscale_tolerance: float = 0.05
    upscale_tolerance: float = 0.05


class UpdateStrategy(Struct):
    max_surge: str | int = "25%"
    max_unavailable: str | int = "25%"


class TrafficTarget(Struct):
    """One entry of `apis`."""

    name: str
    weight: int
    shadow: bool = False


class RealtimeAPI(Struct, tag_field="kind", tag="RealtimeAPI"):
    name: str
    handler: Handler
    networking: Networking
    compute: Compute
    autoscaling: Autoscaling
    update_strategy: UpdateStrategy


class AsyncAPI(Struct, tag_field="kind", tag="AsyncAPI"):
    name: str
    handler: Handler
    networking: Networking
    compute: Compute
    autoscaling: Autoscaling
    update_strategy: UpdateStrategy


class BatchAPI(Struct, tag_field="kind", tag="BatchAPI"):
    name: str
    handler: Handler
    networking: Networking
    compute: Compute


class TaskAPI(Struct, tag_field="kind", tag="TaskAPI"):
    name: str
    definition: Definition
    networking: Networking
    compute: Compute


class TrafficSplitter(Struct, tag_field="kind", tag="TrafficSplitter"):
    name: str
    apis: tuple[TrafficTarget, ...]
    networking: Networking


Api: TypeAlias = RealtimeAPI | AsyncAPI | BatchAPI | TaskAPI | TrafficSplitter


def kind_of(api: Api) -> str:
    """The API's kind as written in the file, e.g. "RealtimeAPI"."""
    return type(api).__name__


def source_of(api: Api) -> Definition | None:
    """The part that says which code runs: `handler`, `definition`, or None for a splitter."""
    if isinstance(api, TrafficSplitter):
        return None
    return api.definition if isinstance(api, TaskAPI) else api.handler


def is_grpc(api: Api) -> bool:
    """Whether an API is called over gRPC."""
    return isinstance(api, RealtimeAPI) and api.handler.protobuf_path is not None


def request_timeout_of(handler: Handler) -> float:
    """Seconds that a request may take."""
    return REQUEST_TIMEOUT if handler.request_timeout is None else handler.request_timeout / 1e9


def requests_per_process(api: RealtimeAPI) -> int:
    """How many requests a process of a replica may have at once, those that wait included."""
    return -(-api.autoscaling.max_replica_concurrency // api.handler.processes_per_replica)


def models_of(api: Api) -> Models | None:
    """Where the models of an API are, whichever section says so; None for an API without."""
    source = source_of(api)
    return (source.multi_model_reloading or source.models) if isinstance(source, Handler) else None
