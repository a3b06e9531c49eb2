from __future__ import annotations

import re

import msgspec

from cortex_serve.agent.agent import AgentCounts
from cortex_serve.agent.rollout import RolloutCounts
from cortex_serve.control import ModelCounts, total
from cortex_serve.metrics import Metrics
from cortex_serve.stats import StatsSnapshot
from cortex_serve.tally import ReplicaCounts

WORKERS = ModelCounts(hits=11, misses=12, evictions=13, held=14)
AGENT = AgentCounts(
    rollout=RolloutCounts(
        swaps=21, fetch_failures=22, load_failures=23, evictions=24, on_disk=25, servables=26
    ),
    listed_ago=2.5,
    passes=27,
)


def replica(models: ModelCounts = WORKERS) -> ReplicaCounts:
    return ReplicaCounts(
        requests=StatsSnapshot(), workers_ready=2, worker_restarts=0, log_lines_dropped=0, models=models
    )


def of_models(text: str) -> dict[str, float]:
    """Values by metric."""
    found = re.findall(r'^(cortex_model\w*)\{api_name="iris"\} (\S+)$', text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def test_each_number_has_a_metric() -> None:
    text = Metrics("iris", replica, lambda: AGENT).render().decode()
    assert of_models(text) == {
        "cortex_model_swaps_total": 21,
        "cortex_model_fetch_failures_total": 22,
        "cortex_model_load_failures_total": 23,
        "cortex_model_polls_total": 27,
        "cortex_model_poll_age_seconds": 2.5,
        "cortex_model_cache_hits_total": 11,
        "cortex_model_cache_misses_total": 12,
        "cortex_model_cache_evictions_total": 13,
        "cortex_model_disk_evictions_total": 24,
        "cortex_models_in_memory": 14,
        "cortex_models_on_disk": 25,
    }
    assert len(re.findall(r"^# HELP cortex_model\w* \w.*\.$", text, re.MULTILINE)) == 11


def test_there_is_no_age_before_every_location_was_listed() -> None:
    unlisted = msgspec.structs.replace(AGENT, listed_ago=None)
    shown = of_models(Metrics("iris", replica, lambda: unlisted).render().decode())
    assert "cortex_model_poll_age_seconds" not in shown
    assert len(shown) == 10


def test_an_api_without_models_has_no_metrics_of_them() -> None:
    text = Metrics("iris", replica).render().decode()
    assert "cortex_model" not in text
    assert 'cortex_workers_ready{api_name="iris"} 2.0' in text


def test_numbers_are_asked_for_at_each_scrape() -> None:
    counts = [msgspec.structs.replace(WORKERS, hits=hits) for hits in (1, 2)]
    metrics = Metrics("iris", lambda: replica(counts.pop(0)), lambda: AGENT)
    shown = [of_models(metrics.render().decode())["cortex_model_cache_hits_total"] for _ in range(2)]
    assert shown == [1, 2]


def test_the_sum_over_workers() -> None:
    assert total([]) == ModelCounts()
    assert total([WORKERS]) == WORKERS
    twice = total([WORKERS, WORKERS, ModelCounts()])
    assert twice == ModelCounts(hits=22, misses=24, evictions=26, held=28)
