"""Metrics of batches: histograms of all workers, and none where nothing is batched."""

from __future__ import annotations

from cortex_serve.batching.counts import BatchCounts, Counter
from cortex_serve.control import ModelCounts, Report
from cortex_serve.metrics import Metrics
from cortex_serve.stats import StatsSnapshot
from cortex_serve.tally import ReplicaCounts, Tally


def counted(*batches: list[float]) -> BatchCounts:
    counter = Counter()
    for waits in batches:
        counter.add(waits)
    return counter.snapshot()


def report(batches: BatchCounts | None) -> Report:
    return Report(requests=StatsSnapshot(), log_lines_dropped=0, batches=batches)


def tallied(*running: BatchCounts | None, ended: BatchCounts | None = None) -> ReplicaCounts:
    tally = Tally()
    tally.keep(report(ended))
    reports = [report(batches) for batches in running]
    return tally.with_reports(reports, workers_ready=1, worker_restarts=0, log_lines_dropped=0)


def test_who_waits_in_workers_that_run_is_counted() -> None:
    counts = tallied(BatchCounts(waiting=2), BatchCounts(waiting=1), ended=BatchCounts(waiting=8))
    lines = Metrics("iris", lambda: counts).render().decode().splitlines()
    assert 'cortex_batch_waiting_requests{api_name="iris"} 3.0' in lines


def test_workers_that_run_and_ran_are_summed() -> None:
    counts = tallied(counted([0.001, 0.001, 0.03]), None, counted([20.0]), ended=counted([0.0, 0.0]))
    lines = Metrics("iris", lambda: counts).render().decode().splitlines()

    assert 'cortex_batch_size_bucket{api_name="iris",le="1"} 1.0' in lines
    assert 'cortex_batch_size_bucket{api_name="iris",le="2"} 2.0' in lines
    assert 'cortex_batch_size_bucket{api_name="iris",le="4"} 3.0' in lines
    assert 'cortex_batch_size_bucket{api_name="iris",le="+Inf"} 3.0' in lines
    assert 'cortex_batch_size_count{api_name="iris"} 3.0' in lines
    assert 'cortex_batch_size_sum{api_name="iris"} 6.0' in lines
    assert 'cortex_batch_wait_seconds_bucket{api_name="iris",le="0.001"} 4.0' in lines
    assert 'cortex_batch_wait_seconds_bucket{api_name="iris",le="10"} 5.0' in lines
    assert 'cortex_batch_wait_seconds_count{api_name="iris"} 6.0' in lines
    assert 'cortex_batch_wait_seconds_sum{api_name="iris"} 20.032' in lines


def test_nothing_is_shown_where_nothing_is_batched() -> None:
    text = Metrics("iris", lambda: tallied(None, None)).render().decode()

    assert "cortex_batch" not in text
    assert "cortex_latency_count" in text


def test_models_do_not_need_batches() -> None:
    assert tallied(None).models == ModelCounts()
