"""What a .proto file says about itself: its package and its services.

Only as much of the language is read as that takes; the compiler judges the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

_TOKEN = re.compile(
    r"""
      //[^\n]* | /\*.*?(?:\*/|\Z)                              # comments
    | (?P<text> "(?:\\.|[^"\\\n])*"? | '(?:\\.|[^'\\\n])*'? )  # strings
    | (?P<word> \.?[A-Za-z_][A-Za-z0-9_]*(?:\s*\.\s*[A-Za-z_][A-Za-z0-9_]*)* )
    | (?P<mark> [{};] )
    """,
    re.VERBOSE | re.DOTALL,
)


class Proto(msgspec.Struct, frozen=True, kw_only=True):
    """A .proto file.

    Attributes:
        package: its dotted name, or None.
        services: the services' names.
    """

    package: str | None
    services: tuple[str, ...]


def read(source: bytes) -> Proto:
    """Read a .proto file; what cannot be understood is skipped."""
    package, services = None, []
    for statement in _top_level(source.decode("utf-8", errors="replace")):
        match statement:
            case ["package", name, *_]:
                package = package or name
            case ["service", name, *_]:
                services.append(name)
    return Proto(package=package, services=tuple(services))


def _top_level(source: str) -> Iterator[list[str]]:
    """The words of each statement outside of all braces."""
    depth, words = 0, list[str]()
    for token in _TOKEN.finditer(source):
        word, mark = token["word"], token["mark"]
        if word and depth == 0:
            words.append(re.sub(r"\s", "", word))
        elif token["text"] and depth == 0:
            words.append("")
        elif mark:
            if depth == 0:
                yield words
                words = []
            depth = max(0, depth + (mark == "{") - (mark == "}"))
