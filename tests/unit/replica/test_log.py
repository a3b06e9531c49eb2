from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator

import pytest

from cortex_serve.log import MAX_LINE, MAX_WAITING, LinePipe, Log, json_line


def _line(message: str, **extra: object) -> dict[str, object]:
    line = json_line(1.5, "INFO", message, process=7, replica="r", extra=extra)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    decoded: dict[str, object] = json.loads(line)
    return decoded


def test_a_line_has_these_keys() -> None:
    assert _line("text", key="value") == {
        "asctime": "1970-01-01T00:00:01.500Z",
        "levelname": "INFO",
        "message": "text",
        "process": 7,
        "replica": "r",
        "key": "value",
    }


def test_own_keys_cannot_be_replaced() -> None:
    assert _line("text", replica="other", process=8)["replica"] == "r"


def test_anything_can_be_given() -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    line = _line("lone \ud800 surrogate", type=int, cycle=cycle, nan=float("nan"), bytes=b"\xff")
    assert line["message"] == "lone \\ud800 surrogate"
    assert line["type"] == "<class 'int'>"
    assert line["cycle"] == "[[...]]"


def test_a_long_message_is_cut() -> None:
    message = str(_line("x" * (MAX_LINE + 1))["message"])
    assert message == "x" * MAX_LINE + f" [line cut: {MAX_LINE + 1} characters]"


def test_a_pipe_nobody_reads_never_blocks_and_counts_what_it_drops() -> None:
    reading, writing = os.pipe()
    pipe = LinePipe(writing)
    line = b"x" * 99_999 + b"\n"
    puts = MAX_WAITING // len(line) + 10
    for _ in range(puts):
        pipe.put(line)
    assert 0 < pipe.dropped < 10
    received = _drain(pipe, reading)
    assert received == line * (puts - pipe.dropped)
    os.close(reading)
    os.close(writing)


def test_a_pipe_whose_reader_is_gone_is_no_error() -> None:
    reading, writing = os.pipe()
    pipe = LinePipe(writing)
    os.close(reading)
    assert pipe.put(b"line\n")
    assert pipe.empty
    os.close(writing)


@pytest.fixture
def info_level() -> Iterator[None]:
    logger = logging.getLogger("cortex")
    level = logger.level
    logger.setLevel("INFO")
    yield
    logger.setLevel(level)


@pytest.mark.usefixtures("info_level")
def test_lines_of_answered_requests() -> None:
    reading, writing = os.pipe()
    log = Log(LinePipe(writing), replica='r"1', project="/p")
    before = time.time()
    log.access("POST", "/", 200, 0.0012345, "a-b_c.1")
    log.access("POST", "/", 200, 0.5, "second")
    log.access('BREW"', "/ü\x7f\n", 599, 0.0, "third")
    log.close()
    first, second, third = map(json.loads, _drain(LinePipe(writing), reading).splitlines())
    os.close(reading)
    os.close(writing)

    at = first.pop("asctime")
    assert time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(before)) <= at
    assert at.endswith("Z")
    assert len(at) == len("2026-01-01T00:00:00.000Z")
    assert first == {
        "levelname": "INFO",
        "message": "POST / 200",
        "process": os.getpid(),
        "replica": 'r"1',
        "request_id": "a-b_c.1",
        "method": "POST",
        "path": "/",
        "status_code": "200 OK",
        "latency_ms": 1.234,
    }
    assert (second["request_id"], second["latency_ms"]) == ("second", 500.0)
    assert third["message"] == 'BREW" /ü\x7f\n 599'
    assert third["method"] == 'BREW"'
    assert third["status_code"] == "599"


@pytest.mark.usefixtures("info_level")
def test_lines_that_nobody_fetches_are_dropped_and_counted() -> None:
    reading, writing = os.pipe()
    log = Log(LinePipe(writing), replica="r", project="/p")
    for number in range(50_010):
        log.access("POST", "/", 200, 0.0, f"r{number}")
    assert log.dropped == 10
    os.close(reading)
    os.close(writing)


def _drain(pipe: LinePipe, reading: int) -> bytes:
    os.set_blocking(reading, False)
    received = bytearray()
    while True:
        pipe.drain()
        try:
            received += os.read(reading, 2**20)
        except BlockingIOError:
            return bytes(received)
