"""What the agent of a real replica works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from cortex_core.errors import CortexError
from cortex_core.models.layout import layout_of
from cortex_core.models.settling import Settled
from cortex_core.models.tree import shown
from cortex_core.spec.types import Models, RealtimeAPI
from cortex_serve.agent.disk import Disk, FetchFailed, StoredVersion
from cortex_serve.agent.disk_cache import CacheLimits
from cortex_serve.agent.fetching import Fetcher
from cortex_serve.agent.rollout import Rollout
from cortex_serve.agent.source import Source
from cortex_serve.agent.trials import TrialResult, Trials
from cortex_serve.cells import Cells
from cortex_serve.log_files import LogFiles
from cortex_serve.supervisor import Plan

POLL_INTERVAL = "CORTEX_MODEL_POLL_INTERVAL"

_DEFAULT_POLL_SECONDS = 10.0
_SHORTEST_POLL_SECONDS = 0.1
_LONGEST_POLL_SECONDS = 86400.0


class ReplicaParts:
    """What a replica's agent works with; see `agent.Parts`.

    Args:
        folder: for copies of models; this replica's alone.
        spec: the API.
        models: its section about models.
        release: id and spec of what runs.
        plan: what the replica runs.
        logs: where news go.

    Raises:
        CortexError: `CORTEX_MODEL_POLL_INTERVAL` is no number of seconds.
    """

    def __init__(
        self, folder: Path, *, spec: RealtimeAPI, models: Models, plan: Plan, logs: LogFiles
    ) -> None:
        self.folder = folder
        self.cells = Cells.create()
        self._models = models
        self._layout = layout_of(spec.handler, spec.compute)
        self._plan = plan
        self._logs = logs
        self._poll_interval = poll_interval(plan.environ)
        names = partial(shown, api=spec.name)
        self.disk = Disk(folder, shown=names, report=self.report)
        self.rollout = Rollout(
            policy=models.swap_policy,
            cache=_cache_limits(models),
            trials=models.swap_policy == "availability" and not (spec.compute.gpu or spec.compute.inf),
            workers=plan.workers,
            names=names,
            all_required=models.dir is None,
            load_timeout=models.load_timeout / 1e9,
        )

    def report(self, level: str, message: str, fields: Mapping[str, Any] | None = None) -> None:
        self._logs.write(level, message, dict(fields or {}))

    def source(self, changed: Callable[[Settled], None], present: list[StoredVersion]) -> Source:
        return Source(
            self._models,
            self._layout,
            changed=changed,
            report=self.report,
            poll_interval=self._poll_interval,
            previous=present,
        )

    def fetcher(self, source: Source, done: Callable[[int, Path | FetchFailed], None]) -> Fetcher:
        return Fetcher(self.disk, source.storage, done=done, report=self.report)

    def trials(self, done: Callable[[int, TrialResult], None]) -> Trials:
        return Trials(
            release=self._plan.release,
            project=self._plan.project,
            models=self.folder,
            cells=self.cells.descriptor,
            environ=self._plan.environ,
            logs=self._logs,
            load_timeout=self._models.load_timeout / 1e9,
            done=done,
            copies=self._plan.workers,
        )


def poll_interval(environ: Mapping[str, str]) -> float:
    """Seconds between two listings of a location.

    Raises:
        CortexError: the variable holds something else.
    """
    text = environ.get(POLL_INTERVAL)
    if not text:
        return _DEFAULT_POLL_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _SHORTEST_POLL_SECONDS <= seconds <= _LONGEST_POLL_SECONDS:
        raise CortexError(
            f"{POLL_INTERVAL} must be seconds between {_SHORTEST_POLL_SECONDS:g} and {_LONGEST_POLL_SECONDS:g}, "
            f"not {text!r}"
        )
    return seconds


def _cache_limits(models: Models) -> CacheLimits | None:
    if models.cache_size is None or models.disk_cache_size is None:
        return None
    return CacheLimits(memory=models.cache_size, disk=models.disk_cache_size)
