from __future__ import annotations

import pytest

from cortex.times import age, latency, local_time, time_of_day


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-3, "0s"), (0, "0s"), (45.9, "45s"), (60, "1m0s"), (200, "3m20s"), (3600, "1h0m"), (18_600, "5h10m"),
        (86_399, "23h59m"), (86_400, "1d0h"), (4 * 86_400 + 7_300, "4d2h"),
    ],
)  # fmt: skip
def test_age(seconds: float, expected: str) -> None:
    assert age(seconds) == expected


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [(None, "-"), (0, "<1 ms"), (0.9, "<1 ms"), (12.3456789, "~12 ms"), (999.4, "~999 ms"), (999.9, "~1.0 s"),
     (61_234.5678, "~61.2 s")],
)  # fmt: skip
def test_latency(milliseconds: float | None, expected: str) -> None:
    assert latency(milliseconds) == expected


def test_time_of_day() -> None:
    assert time_of_day("2026-03-01T14:05:09.123Z") == f"{local_time(1772373909)[11:]}.123"
    assert time_of_day("yesterday") == "yesterday"
