"""What a replica counts, in Prometheus's format.

Workers count for themselves and report; here the reports are added up. What a worker had counted when it died
stays in the sums, so no counter ever goes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from cortex_serve.stats import BUCKETS, StatsSnapshot
from cortex_serve.supervisor import ReplicaCounts


class Metrics:
    """Renders the counts of one API's replica.

    Args:
        count: asked at each scrape.
    """

    def __init__(self, api_name: str, count: Callable[[], ReplicaCounts]) -> None:
        self._api_name = api_name
        self._count = count
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def render(self) -> bytes:
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        counts = self._count()
        yield self._responses(counts.requests)
        yield self._latency(counts.requests)
        yield self._gauge("cortex_in_flight_requests", "Requests being answered.", counts.requests.in_flight)
        yield self._gauge("cortex_workers_ready", "Workers that take requests.", counts.workers_ready)
        yield self._counter("cortex_worker_restarts", "Workers started again.", counts.worker_restarts)
        yield self._counter("cortex_log_lines_dropped", "Log lines lost.", counts.log_lines_dropped)
        yield self._counter(
            "cortex_client_closed", "Requests whose client left.", counts.requests.client_closed
        )

    def _responses(self, requests: StatsSnapshot) -> Metric:
        family = CounterMetricFamily(
            "cortex_status_code", "Requests answered.", labels=("api_name", "response_code")
        )
        for response_code, count in sorted(requests.responses.items()):
            family.add_metric((self._api_name, response_code), count)
        return family

    def _latency(self, requests: StatsSnapshot) -> Metric:
        bounds = [f"{bound * 1000:g}" for bound in BUCKETS] + ["+Inf"]
        buckets = list(zip(bounds, accumulate(requests.latency_buckets), strict=True))
        family = HistogramMetricFamily(
            "cortex_latency", "Milliseconds until a request was answered.", labels=("api_name",)
        )
        family.add_metric((self._api_name,), buckets=buckets, sum_value=requests.latency_sum * 1000)
        return family

    def _gauge(self, name: str, text: str, value: int) -> Metric:
        family = GaugeMetricFamily(name, text, labels=("api_name",))
        family.add_metric((self._api_name,), value)
        return family

    def _counter(self, name: str, text: str, value: int) -> Metric:
        family = CounterMetricFamily(name, text, labels=("api_name",))
        family.add_metric((self._api_name,), value)
        return family
