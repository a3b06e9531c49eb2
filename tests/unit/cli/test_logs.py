from __future__ import annotations

import json

import pytest

from cortex.logs import readable, seconds_ago
from cortex_core.operator_api import LogRecord


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [("30s", 30), ("10m", 600), ("2h", 7200), ("1h30m", 5400), ("1.5m", 90), ("1d", 86400)],
)
def test_durations(duration: str, seconds: float) -> None:
    assert seconds_ago(duration, clock=lambda: 100_000.0) == 100_000 - seconds


def test_no_duration() -> None:
    assert seconds_ago(None) is None


@pytest.mark.parametrize("text", ["", "10", "m", "10 m", "-1m", "10mm", "1x"])
def test_what_is_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        seconds_ago(text)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (json.dumps({"message": "a", "levelname": "INFO"}), "r | a"),
        (json.dumps({"message": "a\nb", "exc_info": "T:\n  x"}), "r | a\nr | b\nr | T:\nr |   x"),
        (json.dumps({"message": ""}), "r | "),
        (json.dumps({"other": 1}), 'r | {"other": 1}'),
        ("[1]", "r | [1]"),
        ("plain", "r | plain"),
        (json.dumps({"message": "a", "asctime": "yesterday"}), "r | yesterday a"),
    ],
)
def test_message_and_traceback(line: str, shown: str) -> None:
    assert readable(LogRecord(replica="r", line=line), prefixed=True) == shown
    assert readable(LogRecord(replica="r", line=line), prefixed=False) == shown.replace("r | ", "")
