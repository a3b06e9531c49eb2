"""What the workers of a replica have counted, those that ended included."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from cortex_serve import control, stats
from cortex_serve.batching import counts as batching
from cortex_serve.batching.counts import BatchCounts
from cortex_serve.control import ModelCounts, Report
from cortex_serve.stats import StatsSnapshot


@dataclass(frozen=True, kw_only=True)
class ReplicaCounts:
    """Everything that metrics show, at one moment.

    Attributes:
        requests: of all workers that run or ran.
        workers_ready: how many take requests.
        worker_restarts: how often one was started again.
        log_lines_dropped: by workers and supervisor.
        models: of all workers that run or ran; `held` of those that run.
        batches: of all workers that run or ran; None where requests are not batched.
    """

    requests: StatsSnapshot
    workers_ready: int
    worker_restarts: int
    log_lines_dropped: int
    models: ModelCounts
    batches: BatchCounts | None = None


class Tally:
    """Adds up reports. What a worker had counted when it ended is kept, so no counter ever goes back."""

    def __init__(self) -> None:
        self._requests = StatsSnapshot()
        self._dropped = 0
        self._models = ModelCounts()
        self._batches: BatchCounts | None = None

    def keep(self, report: Report) -> None:
        """Add the last report of a worker that has ended: nothing is in flight there any more."""
        requests = msgspec.structs.replace(report.requests, in_flight=0, oldest_call=None)
        self._requests = stats.total([self._requests, requests])
        self._dropped += report.log_lines_dropped
        if report.models is not None:
            counted = msgspec.structs.replace(report.models, held=0)
            self._models = control.total([self._models, counted])
        if report.batches is not None:
            self._batches = _total([self._batches, msgspec.structs.replace(report.batches, waiting=0)])

    def with_reports(
        self, reports: Sequence[Report], *, workers_ready: int, worker_restarts: int, log_lines_dropped: int
    ) -> ReplicaCounts:
        """Everything, with what the workers that run have reported last.

        Args:
            log_lines_dropped: by the supervisor.
        """
        return ReplicaCounts(
            requests=stats.total([self._requests, *(report.requests for report in reports)]),
            workers_ready=workers_ready,
            worker_restarts=worker_restarts,
            log_lines_dropped=log_lines_dropped
            + self._dropped
            + sum(report.log_lines_dropped for report in reports),
            models=control.total([self._models, *(report.models for report in reports if report.models)]),
            batches=_total([self._batches, *(report.batches for report in reports)]),
        )


def _total(counts: Iterable[BatchCounts | None]) -> BatchCounts | None:
    given = [each for each in counts if each is not None]
    return batching.total(given) if given else None
