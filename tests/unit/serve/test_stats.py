from __future__ import annotations

import threading

from cortex_serve.stats import BUCKETS, Stats, StatsSnapshot, total


def test_a_new_process_has_counted_nothing() -> None:
    assert Stats().snapshot() == StatsSnapshot()


def test_requests_are_counted_by_class_and_latency() -> None:
    stats = Stats()
    counters = stats.counters()
    for status, seconds in ((200, 0.0005), (204, 0.001), (404, 0.3), (499, 2.0), (500, 1000.0)):
        counters.in_flight += 1
        counters.finish(status, seconds)
    counters.in_flight += 1

    snapshot = stats.snapshot()

    assert snapshot.in_flight == 1
    assert snapshot.responses == {"2XX": 2, "4XX": 2, "5XX": 1}
    assert snapshot.client_closed == 1
    assert snapshot.latency_buckets[0] == 2  # 0.001 belongs to the bucket up to and including 0.001
    assert snapshot.latency_buckets[-1] == 1
    assert sum(snapshot.latency_buckets) == 5
    assert len(snapshot.latency_buckets) == len(BUCKETS) + 1
    assert snapshot.latency_sum == 1002.3015


def test_each_thread_counts_for_itself_and_threads_that_ended_still_count() -> None:
    stats = Stats()
    seen = set()
    barrier = threading.Barrier(4)

    def work() -> None:
        barrier.wait(5)
        for _ in range(1000):
            stats.counters().in_flight += 1
            stats.counters().finish(200, 0.0)
        seen.add(id(stats.counters()))
        barrier.wait(5)

    for _ in range(3):
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert stats.snapshot().responses == {"2XX": 12_000}
    assert len(seen) == 4, "later threads go on with the counters of those that ended"


def test_total_of_workers() -> None:
    one, other = Stats(), Stats()
    for stats, status in ((one, 200), (other, 200), (other, 503)):
        stats.counters().in_flight += 1
        stats.counters().finish(status, 0.5)

    both = total([one.snapshot(), other.snapshot()])

    assert both.responses == {"2XX": 2, "5XX": 1}
    assert both.latency_sum == 1.5
    assert sum(both.latency_buckets) == 3
    assert total([]) == StatsSnapshot()
