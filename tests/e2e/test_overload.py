"""Five times as many requests as an API can answer: it answers as many as ever, refuses the rest at once, and recovers.

For 60 s, with all figures: `PYTHONPATH=tests python -m support.overload`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support.overload import QUEUE, SERVICE, deployed, overload

LATE = 0.25
"""Seconds by which the load itself may be late. More, and it is the machine that is overloaded."""


@pytest.mark.alone
def test_overload_costs_nobody_more_than_a_quick_no(tmp_path: Path) -> None:
    with deployed(tmp_path) as cortex:
        result = overload(cortex, seconds=4)
    print(result)
    late = result.lateness_p99
    assert late < LATE, "this machine is too busy to send requests on time"
    assert result.failed == []
    assert result.goodput >= 0.9
    assert result.accepted_p99 <= 2 * (SERVICE + QUEUE) + late
    assert result.rejected > result.accepted
    assert result.rejected_p99 <= 0.05 + late
    assert result.impolite == []
    assert result.recovery <= 2
    assert result.unhealthy == 0
    assert result.readiness_p99 <= 0.1 + late
    assert result.other_p99 <= 0.1 + late
    assert result.grown == []
