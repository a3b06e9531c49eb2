"""Five times as many requests as an API can answer: it answers as many as ever, refuses the rest at once, and recovers.

For 60 s, with all figures: `PYTHONPATH=tests python -m support.overload`. Percentiles are for `make bench-peers` to
judge, which has the machine for itself; here, that what waits for nothing does not wait.
"""

from __future__ import annotations

from pathlib import Path

from support.overload import QUEUE, SERVICE, deployed, overload


def test_overload_costs_nobody_more_than_a_quick_no(tmp_path: Path) -> None:
    with deployed(tmp_path) as cortex:
        result = overload(cortex, seconds=4)
    print(result)
    assert result.failed == []
    assert result.goodput >= 0.9
    assert result.accepted_median <= 2 * (SERVICE + QUEUE)
    assert result.rejected > result.accepted
    assert result.rejected_median <= SERVICE
    assert result.impolite == []
    assert result.recovery <= 2
    assert result.unhealthy == 0
    assert result.readiness_median <= SERVICE
    assert result.other_median <= SERVICE
    assert result.grown == []
