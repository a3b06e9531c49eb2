"""How names that others chose are written in messages: on one line, not too long, not too many."""

from __future__ import annotations

import heapq
from collections.abc import Collection

from cortex_core.names import printable

_LONGEST = 120
_MOST = 5


def clipped(text: str, *, most: int = _LONGEST) -> str:
    """What can be shown of a name, in so many characters."""
    shown = printable(text[:most])
    return f"{shown[:most]}…" if len(shown) > most or len(text) > most else shown


def quoted(text: str) -> str:
    """`'a'`."""
    return f"'{clipped(text)}'"


def named(names: Collection[str]) -> str:
    """`'a'`, `'a' and 'b'`, `'a', 'b', 'c', 'd', 'e' and 7 more`: the first by the alphabet."""
    return listed([quoted(name) for name in heapq.nsmallest(_MOST, names)], of=len(names))


def listed(words: list[str], *, of: int) -> str:
    """`a`, `a and b`, `a, b and 7 more`: some words of as many as there are."""
    if of > len(words):
        words = [*words, f"{of - len(words)} more"]
    return " and ".join(word for word in (", ".join(words[:-1]), words[-1]) if word)
