"""What a replica counts, in Prometheus's format.

Workers count for themselves and report; here the reports are added up. What a worker had counted when it died
stays in the sums, so no counter ever goes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from cortex_serve.batching.counts import SIZES, WAITS, BatchCounts
from cortex_serve.control import ModelCounts
from cortex_serve.stats import BUCKETS, StatsSnapshot
from cortex_serve.tally import ReplicaCounts

if TYPE_CHECKING:
    from cortex_serve.agent.agent import AgentCounts


class Metrics:
    """Renders the counts of one API's replica.

    Args:
        count: asked at each scrape.
        count_models: asked too; None for an API without models.
    """

    def __init__(
        self,
        api_name: str,
        count: Callable[[], ReplicaCounts],
        count_models: Callable[[], AgentCounts] | None = None,
    ) -> None:
        self._api_name = api_name
        self._count = count
        self._count_models = count_models
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
        if counts.batches is not None:
            yield from self._batches(counts.batches)
        if self._count_models is not None:
            yield from self._models(counts.models, self._count_models())

    def _batches(self, counts: BatchCounts) -> Iterable[Metric]:
        text = "Requests in a batch that was handed to the handler."
        yield self._histogram("cortex_batch_size", text, SIZES, (*counts.sizes, 0), counts.requests)
        text = "Seconds that a request waited for its batch to leave."
        yield self._histogram("cortex_batch_wait_seconds", text, WAITS, counts.waits, counts.waited)
        text = "Requests that wait for their batch to leave."
        yield self._gauge("cortex_batch_waiting_requests", text, counts.waiting)

    def _models(self, workers: ModelCounts, agent: AgentCounts) -> Iterable[Metric]:
        """No metric has a model's name as a label: there may be thousands, and others every day."""
        rollout = agent.rollout
        yield self._counter("cortex_model_swaps", "Versions that became the latest.", rollout.swaps)
        yield self._counter("cortex_model_fetch_failures", "Fetches that failed.", rollout.fetch_failures)
        yield self._counter("cortex_model_load_failures", "Loads that failed.", rollout.load_failures)
        yield self._counter("cortex_model_polls", "Successful listings of locations.", agent.passes)
        if agent.listed_ago is not None:
            text = "Seconds since every location was listed."
            yield self._gauge("cortex_model_poll_age_seconds", text, agent.listed_ago)
        yield self._counter("cortex_model_cache_hits", "Models that were in memory.", workers.hits)
        yield self._counter("cortex_model_cache_misses", "Models that had to be waited for.", workers.misses)
        yield self._counter("cortex_model_cache_evictions", "Models that made room.", workers.evictions)
        yield self._counter(
            "cortex_model_disk_evictions", "Versions that left the disk for others.", rollout.evictions
        )
        yield self._gauge("cortex_models_in_memory", "Versions in the workers' memory.", workers.held)
        yield self._gauge("cortex_models_on_disk", "Versions on this machine.", rollout.on_disk)

    def _responses(self, requests: StatsSnapshot) -> Metric:
        family = CounterMetricFamily(
            "cortex_status_code", "Requests answered.", labels=("api_name", "response_code")
        )
        for response_code, count in sorted(requests.responses.items()):
            family.add_metric((self._api_name, response_code), count)
        return family

    def _latency(self, requests: StatsSnapshot) -> Metric:
        text = "Milliseconds until a request was answered."
        bounds = [bound * 1000 for bound in BUCKETS]
        return self._histogram(
            "cortex_latency", text, bounds, requests.latency_buckets, requests.latency_sum * 1000
        )

    def _histogram(
        self, name: str, text: str, bounds: Sequence[float], counts: Sequence[int], total: float
    ) -> Metric:
        """A histogram of counts per bucket, the last of which has no bound."""
        family = HistogramMetricFamily(name, text, labels=("api_name",))
        texts = [*(f"{bound:g}" for bound in bounds), "+Inf"]
        buckets = list(zip(texts, accumulate(counts), strict=True))
        family.add_metric((self._api_name,), buckets=buckets, sum_value=total)
        return family

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, text, labels=("api_name",))
        family.add_metric((self._api_name,), value)
        return family

    def _counter(self, name: str, text: str, value: int) -> Metric:
        family = CounterMetricFamily(name, text, labels=("api_name",))
        family.add_metric((self._api_name,), value)
        return family
