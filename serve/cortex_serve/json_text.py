"""JSON as the standard library understands it, at msgspec's speed where the two agree.

`decode` accepts what `json.loads` accepts (NaN, UTF-16 and UTF-32, lone surrogates, large numbers) and fails
with its words. `encode` writes text that `json.loads` reads back as what `json.dumps` would have written.
msgspec is asked first; wherever it refuses or may mean something else, the standard library decides.
"""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any

import msgspec

MAX_DEPTH = 512

_TOO_DEEP = f"nested more than {MAX_DEPTH} deep"
_TOO_LONG = "an integer in it has too many digits"
_SCALARS = frozenset({str, int, float, bool, type(None)})
_MANY = 16
_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")

_fast_decode = msgspec.json.Decoder().decode
_fast_encode = msgspec.json.Encoder().encode
_standard_encode = json.JSONEncoder(separators=(",", ":")).encode


def decode(body: bytes) -> Any:
    """Read a JSON document in UTF-8, UTF-16 or UTF-32.

    Raises:
        ValueError: it is malformed, cannot be decoded, or is nested more than `MAX_DEPTH` deep; the text says
            where.
    """
    if len(body) > MAX_DEPTH:
        _look_at_depth(body)
    try:
        return _fast_decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _standard_decode(body)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


def encode(value: Any) -> bytes:
    """Write a value as JSON.

    Raises:
        TypeError, ValueError, RecursionError: the standard library cannot write it.
    """
    if _means_the_same(value):
        try:
            text = _fast_encode(value)
        except (OverflowError, ValueError, msgspec.MsgspecError):
            pass  # an integer of more than 64 bits or half a surrogate pair
        else:
            if b"null" not in text:  # msgspec writes NaN as null
                return text
    return _standard_encode(value).encode("ascii")


def _means_the_same(value: Any) -> bool:
    """Whether the value is made of nothing but what both encoders write alike.

    msgspec also writes sets, bytes, dates and more, which the standard library refuses.
    """
    kind = type(value)
    if kind is dict:
        for key in value:
            if type(key) is not str:
                return False
        items = value.values()
    elif kind is list or kind is tuple:
        items = value
    else:
        return kind in _SCALARS
    if len(items) > _MANY and set(map(type, items)) <= _SCALARS:  # faster than the loop where there are many
        return True
    for item in items:  # noqa: SIM110 - all() with a generator takes thrice as long for a few
        if type(item) not in _SCALARS and not _means_the_same(item):
            return False
    return True


def _look_at_depth(body: bytes) -> None:
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and json.detect_encoding(body).startswith("utf-8"):
        _refuse_depth(body)


def _standard_decode(body: bytes) -> Any:
    encoding = json.detect_encoding(body)
    text = body.decode(encoding, "surrogatepass")
    if not encoding.startswith("utf-8"):
        _refuse_depth(text.encode("utf-8", "surrogatepass"))
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except json.JSONDecodeError:
        raise
    except ValueError:  # Python's limit of what may be a number
        raise ValueError(_TOO_LONG) from None


def _refuse_depth(document: bytes) -> None:
    """Raise before a parser recurses: from Python 3.12 on that may end the process instead of raising.

    Exact for well-formed documents, and linear for all.
    """
    unescaped = document.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside_strings = b"".join(unescaped.split(b'"')[::2])
    brackets = outside_strings.translate(_TO_SQUARE, _NOT_BRACKETS)
    removed = 0
    while brackets and removed < 4:  # each pass takes the innermost level; usual data has no more than these
        brackets = brackets.replace(b"[]", b"")
        removed += 1
    deepest = max(accumulate(1 if bracket == 0x5B else -1 for bracket in brackets), default=0)
    if removed + deepest > MAX_DEPTH:
        raise ValueError(_TOO_DEEP)
