from __future__ import annotations

from cortex_core.operator_api import NetworkStats
from cortex_operator.gateway.traffic import Traffic, TrafficLog, in_classes


def traffic(ok: int, *, failed: int = 0, milliseconds: float = 0) -> Traffic:
    return Traffic(classes={2: ok, 5: failed}, timed=ok, milliseconds=milliseconds)


def test_what_is_observed_is_told() -> None:
    log = TrafficLog()
    log.observe({"iris": Traffic(classes={2: 5, 3: 1, 4: 2, 5: 1}, timed=4, milliseconds=10)})
    assert log.stats() == {"iris": NetworkStats(latency=2.5, code_2xx=5, code_4xx=2, code_5xx=1, total=9)}


def test_without_a_timed_answer_there_is_no_latency() -> None:
    log = TrafficLog()
    log.observe({"iris": Traffic()})
    assert log.stats() == {"iris": NetworkStats()}


def test_counts_go_on_after_a_restart() -> None:
    log = TrafficLog()
    for counted in (3, 7):
        log.observe({"iris": traffic(counted, milliseconds=counted)})
    log.restarted()
    assert log.stats()["iris"].total == 7
    log.observe({"iris": traffic(2, failed=1, milliseconds=11), "new": traffic(1)})
    assert log.stats()["iris"] == NetworkStats(latency=2, code_2xx=9, code_5xx=1, total=10)
    log.restarted()
    log.restarted()
    assert {api: stats.total for api, stats in log.stats().items()} == {"iris": 10, "new": 1}


def test_counts_go_on_when_an_api_is_counted_anew() -> None:
    log = TrafficLog()
    log.observe({"iris": traffic(5), "other": traffic(1)})
    log.observe({"iris": traffic(2), "other": traffic(2)})
    log.observe({"iris": traffic(3), "other": traffic(2)})
    assert {api: stats.total for api, stats in log.stats().items()} == {"iris": 8, "other": 2}


def test_statuses_of_grpc_are_counted_as_http_would_call_them() -> None:
    every = in_classes(dict.fromkeys(range(17), 1))
    assert every == {2: 1, 4: 10, 5: 6}
    assert in_classes({0: 3, 14: 2}) == {2: 3, 5: 2}


def test_a_removed_api_is_forgotten() -> None:
    log = TrafficLog()
    log.observe({"iris": traffic(1), "other": traffic(2)})
    log.restarted()
    log.observe({"iris": traffic(1), "other": traffic(2)})
    log.keep({"other"})
    assert {api: stats.total for api, stats in log.stats().items()} == {"other": 4}
