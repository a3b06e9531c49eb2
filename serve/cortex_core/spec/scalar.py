"""What a YAML scalar without quotes means: the core schema of YAML 1.2."""

from __future__ import annotations

import re
from typing import Any

from cortex_core.spec.problems import shown

LONGEST_NUMBER = 100

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_OLD_BOOL = {
    written: value
    for word, value in {"yes": "true", "on": "true", "no": "false", "off": "false"}.items()
    for written in (word, word.capitalize(), word.upper())
}
_OLD_OCTAL = re.compile(r"[-+]?0[0-9_]+")
_OLD_GROUPED = re.compile(r"[-+]?[0-9][0-9_]*_[0-9_]*(?:\.[0-9_]*)?")


def value_of(text: str) -> Any:
    """A scalar without quotes, by YAML 1.2's core schema; numbers that are no use stay text."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if len(text) <= LONGEST_NUMBER:
        if _INT.fullmatch(text):
            return int(text, 0) if text.startswith("0") else int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
    return text


def ambiguity(text: str) -> str | None:
    """What to say about a scalar that versions of YAML read differently."""
    if text in _OLD_BOOL:
        return f"{text} can be read as a boolean or as text; write {_OLD_BOOL[text]} or '{text}'"
    if len(text) > LONGEST_NUMBER:
        return None
    if _OLD_OCTAL.fullmatch(text):
        return f"{text} can be read as octal, decimal or text; write it without the leading zero or in quotes"
    if _OLD_GROUPED.fullmatch(text):
        return f"{text} can be read as a number or as text; write {text.replace('_', '')} or '{text}'"
    return None


def unusable(text: str, value: Any) -> str | None:
    """What to say about a number that JSON or 64 bits cannot hold."""
    if _NOT_FINITE.fullmatch(text) or value in (float("inf"), float("-inf")):
        return f"{shown(text)} is not a finite number; write it in quotes if text is meant"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "the number does not fit in 64 bits; write it in quotes if text is meant"
    return None
