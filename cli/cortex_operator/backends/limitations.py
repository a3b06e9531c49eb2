"""What of a spec processes on one machine cannot run, and what has no effect on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from cortex_core.release import Release
from cortex_core.spec.types import (
    Autoscaling,
    Compute,
    Handler,
    RealtimeAPI,
    UpdateStrategy,
    requests_per_process,
    source_of,
)
from cortex_operator.backends.protocol import Notice

_LATER = "not in this version yet"
_COUNTS = frozenset({"min_replicas", "init_replicas", "max_replica_concurrency"})
"""Fields of `autoscaling` that have an effect without an autoscaler."""


def refusals(release: Release) -> list[Notice]:
    """Parts of the spec that cannot run here at all."""
    return list(_refusals(release))


def ignored(release: Release, *, memory_limits: bool) -> list[Notice]:
    """Parts of the spec that have no effect here.

    Args:
        release: what is to run.
        memory_limits: whether the kernel lets us limit memory.
    """
    return [*_machine(release, memory_limits), *_code(release), *_batching(release), *_scaling(release)]


def _refusals(release: Release) -> Iterator[Notice]:
    spec = release.spec
    if not isinstance(spec, RealtimeAPI):
        yield Notice(path="kind", text=f"{release.kind} is {_LATER}; only RealtimeAPI is")
        return
    handler = spec.handler
    if handler.type == "tensorflow":
        yield Notice(path="handler.type", text=f"tensorflow is {_LATER}; only python is")
    if handler.models is not None:
        yield Notice(path="handler.models", text=f"loading models for the handler is {_LATER}")


def _machine(release: Release, memory_limits: bool) -> Iterator[Notice]:
    compute: Compute | None = getattr(release.spec, "compute", None)
    if compute is None:
        return
    if compute.cpu not in (None, Compute().cpu):
        yield Notice(path="compute.cpu", text="replicas share all cores of this machine")
    if compute.mem is not None and not memory_limits:
        yield Notice(path="compute.mem", text="memory is not limited: control groups cannot be written here")
    if compute.gpu:
        yield Notice(path="compute.gpu", text="replicas see all GPUs of this machine, if it has any")
    if compute.inf:
        yield Notice(
            path="compute.inf", text="replicas see all Inferentia chips of this machine, if it has any"
        )
    if compute.node_groups is not None:
        yield Notice(path="compute.node_groups", text="everything runs on this machine")


def _code(release: Release) -> Iterator[Notice]:
    source = source_of(release.spec)
    if source is None:
        return
    section = "handler" if isinstance(source, Handler) else "definition"
    if source.image is not None:
        yield Notice(path=f"{section}.image", text="replicas are processes, no container image is used")
    if source.shm_size is not None:
        yield Notice(path=f"{section}.shm_size", text="replicas use this machine's shared memory")


def _batching(release: Release) -> Iterator[Notice]:
    """Files of Cortex 0.35 may have this, so it is no rule."""
    spec = release.spec
    if not isinstance(spec, RealtimeAPI) or spec.handler.server_side_batching is None:
        return
    most = requests_per_process(spec)
    if spec.handler.server_side_batching.max_batch_size > most:
        text = (
            f"no batch is larger than {most}: a process has at most {most} requests at once, its share of "
            f"max_replica_concurrency ({spec.autoscaling.max_replica_concurrency})"
        )
        yield Notice(path="handler.server_side_batching.max_batch_size", text=text)


def _scaling(release: Release) -> Iterator[Notice]:
    spec = release.spec
    autoscaling: Autoscaling | None = getattr(spec, "autoscaling", None)
    strategy: UpdateStrategy | None = getattr(spec, "update_strategy", None)
    if autoscaling is not None:
        handler: Handler | None = getattr(spec, "handler", None)
        slots = handler.processes_per_replica * handler.threads_per_process if handler is not None else 1
        default = Autoscaling(target_replica_concurrency=float(slots))
        for field in _changed(autoscaling, default):
            if field not in _COUNTS:
                text = "there is no autoscaling here; min_replicas run"
                yield Notice(path=f"autoscaling.{field}", text=text)
    if strategy is not None:
        for field in _changed(strategy, UpdateStrategy()):
            text = "all new replicas start beside the old ones, which stop once the new are ready"
            yield Notice(path=f"update_strategy.{field}", text=text)


def _changed(value: Any, default: Any) -> list[str]:
    return [
        field.name
        for field in msgspec.structs.fields(value)
        if getattr(value, field.name) != getattr(default, field.name)
    ]
