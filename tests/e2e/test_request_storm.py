"""Aborts, slow bodies, pipelining and half-closed sockets: each request has one right answer, and nothing is left over.

Here of replicas alone; through the gateway while replicas come and go: `test_replacements_in_storm`. With 50,000
requests each way: `PYTHONPATH=tests python -m support.request_storm`.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.request_storm import LAZY, WAYS, target
from support.resources import MIB, Resources

REQUESTS = 1500
SEED = random.randrange(10_000)


@pytest.mark.parametrize("way", [name for name, way in WAYS.items() if not way.gateway])
def test_each_request_has_exactly_one_right_answer(way: str, tmp_path: Path) -> None:
    with target(WAYS[way], tmp_path) as served:
        served.storm(seed=SEED + 1, requests=REQUESTS // 3).run()
        resources = Resources(served.processes)
        before = resources.now()
        verdict = served.storm(seed=SEED, requests=REQUESTS).run()
        grown = resources.grown(before, memory=32 * MIB, threads=LAZY, within=5)
    assert verdict.problems == []
    assert verdict.answered > REQUESTS * 0.7
    assert grown == []
