"""When what died is started again."""

from __future__ import annotations

import pytest

from cortex_core.restarts import LIMIT, Restarts

STABLE = 10.0


def test_at_once_after_the_first_death_of_what_was_ready() -> None:
    restarts = Restarts(stable_after=STABLE)

    assert restarts.next(ready_for=1.0) == 0
    assert restarts.count == 1


def test_a_crash_loop_at_start_backs_off_to_a_limit() -> None:
    restarts = Restarts(stable_after=STABLE)

    delays = [restarts.next(ready_for=None) for _ in range(12)]

    assert delays[:5] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6])
    assert delays[-1] == LIMIT
    assert delays == sorted(delays)
    assert restarts.count == 12


def test_what_dies_again_soon_after_it_was_ready_backs_off_too() -> None:
    restarts = Restarts(stable_after=STABLE)

    delays = [restarts.next(ready_for=0.1) for _ in range(4)]

    assert delays == pytest.approx([0, 0.1, 0.2, 0.4])


def test_being_ready_for_long_is_forgiving() -> None:
    restarts = Restarts(stable_after=STABLE)
    for _ in range(20):
        restarts.next(ready_for=None)

    assert restarts.next(ready_for=STABLE) == 0
    assert restarts.next(ready_for=None) == pytest.approx(0.1)


def test_thousands_of_deaths_are_no_problem() -> None:
    restarts = Restarts(stable_after=STABLE)

    assert [restarts.next(ready_for=None) for _ in range(5000)][-1] == LIMIT
