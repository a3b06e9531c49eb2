from __future__ import annotations

from cortex_serve.restarts import LONGEST_DELAY, STEADY_AFTER, Restarts


def test_the_first_restart_is_at_once_and_each_further_one_later() -> None:
    restarts = Restarts()
    delays = [restarts.delay(ready_for=0) for _ in range(12)]
    assert delays == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, LONGEST_DELAY, LONGEST_DELAY]
    assert restarts.count == 12


def test_a_worker_that_was_ready_for_a_while_is_forgiven() -> None:
    restarts = Restarts()
    for _ in range(5):
        restarts.delay(ready_for=STEADY_AFTER / 2)
    assert restarts.delay(ready_for=STEADY_AFTER) == 0
    assert restarts.delay(ready_for=0) == 0.1


def test_it_can_die_any_number_of_times() -> None:
    restarts = Restarts()
    assert {restarts.delay(ready_for=0) for _ in range(5000)} >= {LONGEST_DELAY}
