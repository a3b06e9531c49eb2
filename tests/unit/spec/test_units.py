from __future__ import annotations

from decimal import Decimal

import pytest

from cortex_core.spec.units import duration_text, normalized_quantity, parse_duration, parse_quantity


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("10s", 10 * 10**9),
        ("1m30s", 90 * 10**9),
        ("0.2s", 200_000_000),
        (".5s", 500_000_000),
        ("200ms", 200_000_000),
        ("1h", 3600 * 10**9),
        ("5us", 5000),
        ("5µs", 5000),
        ("5ns", 5),
        ("-1.5m", -90 * 10**9),
        ("+1s", 10**9),
    ],
)
def test_duration(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["0s", "1m", "1h", "1m30s", "200ms", "1s500ms", "2us", "7ns", "5h10m"])
def test_a_duration_is_written_as_it_is_read(text: str) -> None:
    assert duration_text(parse_duration(text)) == text


@pytest.mark.parametrize("text", ["", "10", "s", "1 s", "1d", "1s ", "1.s.s", "1s\n", "--1s"])
def test_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("1", "1"),
        ("0.5", "0.5"),
        ("200m", "0.2"),
        ("500Mi", str(500 * 1024**2)),
        ("2G", "2000000000"),
        ("1k", "1000"),
        ("1e3", "1000"),
        ("1E3", "1000"),
        ("1E", "1000000000000000000"),
        ("1Ei", str(1024**6)),
        ("5.", "5"),
    ],
)
def test_quantity(text: str, amount: str) -> None:
    assert parse_quantity(text) == Decimal(amount)


@pytest.mark.parametrize("text", ["", "m", "1 G", "1GB", "-1", "1K", "1e999", "1\n", "½"])
def test_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        parse_quantity(text)


@pytest.mark.parametrize(
    ("one", "other"), [("1", "1000m"), ("0.20", "200m"), ("1Gi", "1024Mi"), ("0", "0m"), ("1e3", "1k")]
)
def test_equal_quantities_have_one_text(one: str, other: str) -> None:
    assert normalized_quantity(one) == normalized_quantity(other)


def test_different_quantities_differ() -> None:
    assert len({normalized_quantity(text) for text in ("1G", "1Gi", "1", "1m", "1000000001")}) == 5
