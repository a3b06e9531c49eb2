from __future__ import annotations

from cortex_serve.control import ModelCounts, Report
from cortex_serve.stats import StatsSnapshot
from cortex_serve.tally import ReplicaCounts, Tally


def report(answered: int, *, in_flight: int = 0, oldest_call: float | None = None, held: int = 0) -> Report:
    return Report(
        requests=StatsSnapshot(in_flight=in_flight, responses={"2XX": answered}, oldest_call=oldest_call),
        log_lines_dropped=1,
        models=ModelCounts(hits=answered, held=held),
    )


def shown(tally: Tally, *running: Report) -> ReplicaCounts:
    return tally.with_reports(running, workers_ready=len(running), worker_restarts=0, log_lines_dropped=10)


def test_workers_that_run_are_added_up() -> None:
    counts = shown(Tally(), report(2, in_flight=1, oldest_call=3.0, held=1), report(3, in_flight=1, held=1))
    assert counts.requests.responses == {"2XX": 5}
    assert counts.requests.in_flight == 2
    assert counts.requests.oldest_call == 3.0
    assert counts.log_lines_dropped == 12
    assert counts.models == ModelCounts(hits=5, held=2)


def test_what_was_counted_stays_when_a_worker_ends_but_nothing_runs_there_any_more() -> None:
    tally = Tally()
    tally.keep(report(2, in_flight=4, oldest_call=3600.0, held=3))
    tally.keep(report(1, in_flight=4, oldest_call=7.0, held=3))
    counts = shown(tally, report(3, in_flight=1, held=1))
    assert counts.requests.responses == {"2XX": 6}
    assert counts.requests.in_flight == 1
    assert counts.requests.oldest_call is None
    assert counts.log_lines_dropped == 13
    assert counts.models == ModelCounts(hits=6, held=1)
