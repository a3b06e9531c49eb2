"""A replica's last log lines as text for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

LINES = 60
LINE_LENGTH = 2000


def as_text(records: Iterable[str]) -> tuple[str, ...]:
    """The last messages and tracebacks of JSON log lines; a line that is no such JSON is shown as it is."""
    lines: list[str] = []
    for record in records:
        for text in _texts(record):
            lines.extend(line[:LINE_LENGTH] for line in text.splitlines())
    return tuple(lines[-LINES:])


def _texts(record: str) -> list[str]:
    try:
        fields: Any = msgspec.json.decode(record)
    except msgspec.DecodeError:
        return [record]
    if not isinstance(fields, dict):
        return [record]
    return [str(fields[key]) for key in ("message", "exc_info") if fields.get(key)]
