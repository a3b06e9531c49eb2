"""The place of one worker in a replica; who runs in it changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cortex_core.restarts import Restarts
from cortex_serve.worker_process import WorkerProcess

STABLE_AFTER = 2.0
"""Seconds of being ready after which a worker's earlier deaths are forgotten."""


@dataclass(kw_only=True)
class Slot:
    """The place of one worker.

    Attributes:
        number: from 1.
        port: where it serves.
        worker: the one that runs, if any.
        start_at: monotonic time at which the next one is started, if none runs.
    """

    number: int
    port: int
    worker: WorkerProcess | None = None
    start_at: float | None = None
    restarts: Restarts = field(default_factory=lambda: Restarts(stable_after=STABLE_AFTER))

    @property
    def ready(self) -> bool:
        return self.worker is not None and self.worker.ready

    def due(self) -> float | None:
        """When there is something to do about it, in monotonic time."""
        if self.worker is None:
            return self.start_at
        return self.worker.watch.due if self.worker.watch is not None else None

    def health(self) -> dict[str, Any]:
        """How it is doing, as JSON. From any thread."""
        worker = self.worker
        if worker is None:
            state = "restarting" if self.start_at is not None else "ended"
        else:
            state = "ready" if worker.ready else "starting"
        return {
            "number": self.number,
            "port": self.port,
            "pid": worker.pid if worker else None,
            "state": state,
            "restarts": self.restarts.count,
        }
