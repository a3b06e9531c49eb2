"""What the process backend refuses, and what it says has no effect."""

from __future__ import annotations

from typing import Any

import pytest

from cortex_core.release import Release, make_release
from cortex_core.spec.types import (
    Api,
    AsyncAPI,
    Autoscaling,
    BatchAPI,
    Compute,
    Definition,
    Handler,
    Models,
    Networking,
    RealtimeAPI,
    ServerSideBatching,
    TaskAPI,
    TrafficSplitter,
    UpdateStrategy,
)
from cortex_operator.backends import limitations
from cortex_operator.backends.protocol import Notice

NETWORKING = Networking(endpoint="/iris")


def realtime(
    *,
    compute: Compute = Compute(),  # noqa: B008 - frozen
    autoscaling: dict[str, Any] | None = None,
    strategy: UpdateStrategy = UpdateStrategy(),  # noqa: B008 - frozen
    **handler: Any,
) -> RealtimeAPI:
    defaults: dict[str, Any] = {"type": "python", "path": "handler.py"}
    scaling: dict[str, Any] = {"target_replica_concurrency": 1.0}
    return RealtimeAPI(
        name="iris",
        handler=Handler(**(defaults | handler)),
        networking=NETWORKING,
        compute=compute,
        autoscaling=Autoscaling(**(scaling | (autoscaling or {}))),
        update_strategy=strategy,
    )


def release(spec: Api) -> Release:
    return make_release(spec, project_digest="ab", project_url="file:///b", runtime_version="1")


PYTHON = Handler(type="python", path="handler.py")

REFUSED: list[tuple[Api, list[tuple[str, str]]]] = [
    (realtime(), []),
    (
        AsyncAPI(
            name="iris",
            handler=PYTHON,
            networking=NETWORKING,
            compute=Compute(),
            autoscaling=Autoscaling(target_replica_concurrency=1.0),
            update_strategy=UpdateStrategy(),
        ),
        [("kind", "AsyncAPI is not in this version yet; only RealtimeAPI is")],
    ),
    (
        BatchAPI(name="iris", handler=PYTHON, networking=NETWORKING, compute=Compute()),
        [("kind", "BatchAPI is not in this version yet; only RealtimeAPI is")],
    ),
    (
        TaskAPI(name="iris", definition=Definition(path="task.py"), networking=NETWORKING, compute=Compute()),
        [("kind", "TaskAPI is not in this version yet; only RealtimeAPI is")],
    ),
    (
        TrafficSplitter(name="iris", apis=(), networking=NETWORKING),
        [("kind", "TrafficSplitter is not in this version yet; only RealtimeAPI is")],
    ),
    (
        realtime(type="tensorflow", models=Models(path="/m")),
        [
            ("handler.type", "tensorflow is not in this version yet; only python is"),
            ("handler.models", "loading models for the handler is not in this version yet"),
        ],
    ),
    (realtime(multi_model_reloading=Models(path="/m")), []),
    (realtime(server_side_batching=ServerSideBatching(max_batch_size=4, batch_interval=1)), []),
    (realtime(protobuf_path="a.proto"), []),
]


@pytest.mark.parametrize(("spec", "texts"), REFUSED)
def test_refusals(spec: Api, texts: list[tuple[str, str]]) -> None:
    assert limitations.refusals(release(spec)) == [Notice(path=path, text=text) for path, text in texts]


IGNORED: list[tuple[RealtimeAPI, list[tuple[str, str]]]] = [
    (realtime(), []),
    (realtime(compute=Compute(cpu=None)), []),
    (realtime(compute=Compute(mem="1Gi")), []),
    (realtime(processes_per_replica=2, autoscaling={"target_replica_concurrency": 2.0}), []),
    (realtime(autoscaling={"min_replicas": 2, "init_replicas": 2, "max_replica_concurrency": 7}), []),
    (realtime(compute=Compute(cpu="1")), [("compute.cpu", "replicas share all cores of this machine")]),
    (
        realtime(compute=Compute(gpu=1, inf=1, node_groups=("a",))),
        [
            ("compute.gpu", "replicas see all GPUs of this machine, if it has any"),
            ("compute.inf", "replicas see all Inferentia chips of this machine, if it has any"),
            ("compute.node_groups", "everything runs on this machine"),
        ],
    ),
    (
        realtime(image="i", shm_size="1Gi"),
        [
            ("handler.image", "replicas are processes, no container image is used"),
            ("handler.shm_size", "replicas use this machine's shared memory"),
        ],
    ),
    (
        realtime(autoscaling={"target_replica_concurrency": 3.0, "max_replicas": 5}),
        [
            ("autoscaling.target_replica_concurrency", "there is no autoscaling here; min_replicas run"),
            ("autoscaling.max_replicas", "there is no autoscaling here; min_replicas run"),
        ],
    ),
    (realtime(server_side_batching=ServerSideBatching(max_batch_size=1024)), []),
    (
        realtime(
            server_side_batching=ServerSideBatching(max_batch_size=3),
            processes_per_replica=3,
            autoscaling={"target_replica_concurrency": 3.0, "max_replica_concurrency": 7},
        ),
        [],
    ),
    (
        realtime(
            server_side_batching=ServerSideBatching(max_batch_size=4),
            processes_per_replica=3,
            autoscaling={"target_replica_concurrency": 3.0, "max_replica_concurrency": 7},
        ),
        [
            (
                "handler.server_side_batching.max_batch_size",
                "no batch is larger than 3: a process has at most 3 requests at once, its share of "
                "max_replica_concurrency (7)",
            )
        ],
    ),
    (
        realtime(strategy=UpdateStrategy(max_surge=1)),
        [
            (
                "update_strategy.max_surge",
                "all new replicas start beside the old ones, which stop once the new are ready",
            )
        ],
    ),
]


@pytest.mark.parametrize(("spec", "texts"), IGNORED)
def test_ignored(spec: Api, texts: list[tuple[str, str]]) -> None:
    notices = limitations.ignored(release(spec), memory_limits=True)
    assert notices == [Notice(path=path, text=text) for path, text in texts]


def test_a_memory_limit_that_cannot_be_set_is_ignored() -> None:
    spec = realtime(compute=Compute(mem="1Gi"))

    assert limitations.ignored(release(spec), memory_limits=False) == [
        Notice(path="compute.mem", text="memory is not limited: control groups cannot be written here")
    ]
