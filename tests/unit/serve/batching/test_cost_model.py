"""What a batch costs is learned, whatever disturbs single batches."""

from __future__ import annotations

import random
from statistics import median

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cortex_serve.batching.cost_model import WINDOW, CostModel


def learned(batches: list[tuple[int, float]]) -> CostModel:
    model = CostModel()
    model.observe(1, 100.0)  # the first call is never counted
    for size, seconds in batches:
        model.observe(size, seconds)
    return model


@given(
    st.floats(0.0001, 0.1), st.floats(0.00001, 0.01), st.lists(st.integers(1, 64), min_size=3, max_size=200)
)
def test_exact_costs(call: float, item: float, sizes: list[int]) -> None:
    """Where enough of the batches differ in size to tell what an item costs, or none do."""
    recent = sorted(sizes[-WINDOW:])
    third = -(-len(recent) // 3)
    assume(median(recent[:third]) < median(recent[-third:]) or len(set(recent)) == 1)
    model = learned([(size, call + item * size) for size in sizes])

    for size in recent:
        assert model.seconds(size) == pytest.approx(call + item * size, rel=1e-6)


def test_outliers_do_not_count() -> None:
    noise = random.Random(7)
    batches = []
    for number in range(300):
        size = noise.randint(1, 32)
        seconds = 0.002 + 0.00005 * size + noise.random() * 0.0001
        batches.append((size, 0.5 if number % 20 == 0 else seconds))
    model = learned(batches)

    for size in (1, 8, 32):
        assert model.seconds(size) == pytest.approx(0.002 + 0.00005 * size, rel=0.25)


@given(st.lists(st.tuples(st.integers(1, 1024), st.floats(1e-6, 10)), max_size=80), st.floats(1e-4, 10))
def test_sane_whatever_it_sees(batches: list[tuple[int, float]], within: float) -> None:
    model = learned(batches)

    assert 0 <= model.seconds(1) <= model.seconds(2) <= model.seconds(1024)
    most = model.most_within(within)
    assert most >= 1
    smaller = most < max((size for size, _ in batches), default=1)
    assert most == 1 or smaller or model.seconds(most) <= within * (1 + 1e-9)
    assert most <= max([2 * size for size, _ in batches[-WINDOW:]], default=1)


def test_one_size_only() -> None:
    model = learned([(8, 0.008)] * 10)

    assert model.seconds(8) == pytest.approx(0.008)
    assert model.most_within(0.1) == 9, "a little more is tried"
    assert model.most_within(0.001) == 1


def test_a_change_is_noticed() -> None:
    batches = [(size, 0.01 + 0.001 * size) for size in (1, 4, 8, 16)] * 20
    model = learned(batches + [(size, seconds / 10) for size, seconds in batches[:WINDOW]])

    assert model.seconds(16) == pytest.approx(0.0026, rel=1e-6)
