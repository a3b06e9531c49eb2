"""What is counted of batches."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cortex_serve.batching.counts import SIZES, WAITS, BatchCounts, Counter, total

batches = st.lists(st.lists(st.floats(0, 20), min_size=1, max_size=40), max_size=20)


@given(batches)
def test_every_batch_and_request_is_counted_once(batches: list[list[float]]) -> None:
    counter = Counter()
    for waits in batches:
        counter.add(iter(waits))
    counts = counter.snapshot()

    assert sum(counts.sizes) == len(batches)
    assert sum(counts.waits) == counts.requests == sum(map(len, batches))
    assert counts.waited == sum(sum(waits) for waits in batches) or batches


def test_buckets_hold_their_upper_bound() -> None:
    counter = Counter()
    counter.add([WAITS[0], WAITS[0] + 1e-9, 1000.0])

    counts = counter.snapshot()
    assert counts.sizes[SIZES.index(4)] == 1
    assert counts.waits[:2] == (1, 1)
    assert counts.waits[-1] == 1


@given(batches, batches)
def test_total(one: list[list[float]], other: list[list[float]]) -> None:
    counters = (Counter(), Counter())
    together = Counter()
    for counter, waits in (
        (counter, waits) for counter, many in zip(counters, (one, other), strict=True) for waits in many
    ):
        counter.add(waits)
        together.add(waits)

    summed = total(counter.snapshot() for counter in counters)
    assert (summed.sizes, summed.requests, summed.waits) == (
        together.snapshot().sizes,
        together.snapshot().requests,
        together.snapshot().waits,
    )
    assert total([]) == BatchCounts()
    assert msgspec.json.decode(msgspec.json.encode(summed), type=BatchCounts) == summed
