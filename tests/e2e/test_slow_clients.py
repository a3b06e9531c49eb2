"""Clients that dribble heads and bodies, or hardly read, cost others nothing: they hold no thread of a replica.

With 2,000 of them, and figures: `PYTHONPATH=tests python -m support.slow_clients`.
"""

from __future__ import annotations

from pathlib import Path

from support.resources import MIB
from support.slow_clients import THREADS, beside_slow_ones, deployed

CLIENTS = 300


def test_normal_clients_are_answered_beside_hundreds_of_slow_ones(tmp_path: Path) -> None:
    assert CLIENTS > 10 * THREADS
    with deployed(tmp_path) as cortex:
        result = beside_slow_ones(cortex, clients=CLIENTS, seconds=1.5)
    assert {outcome.status for outcome in result.normal} == {200}
    assert len(result.normal) == 300
    assert max(outcome.seconds for outcome in result.normal) < 2
    assert result.slow > CLIENTS / 2, "the slow ones were not there meanwhile"
    assert result.gateway_grown < 48 * MIB
