from __future__ import annotations

import json
import os

from cortex_serve.log import MAX_LINE, MAX_WAITING, LinePipe, json_line


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


def _drain(pipe: LinePipe, reading: int) -> bytes:
    os.set_blocking(reading, False)
    received = b""
    while True:
        pipe.drain()
        try:
            received += os.read(reading, 2**20)
        except BlockingIOError:
            return received
