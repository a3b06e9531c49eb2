"""What a .proto file says about itself: its package, its services, the files it imports.

Only as much of the language is read as that takes; the compiler judges the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

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
        imports: the files it imports, as it names them.
    """

    package: str | None
    services: tuple[str, ...]
    imports: tuple[str, ...] = ()


def read(source: bytes) -> Proto:
    """Read a .proto file; what cannot be understood is skipped."""
    package, services, imports = None, [], []
    for statement in _top_level(source.decode("utf-8", errors="replace")):
        match statement:
            case ["package", name, *_]:
                package = package or name
            case ["service", name, *_]:
                services.append(name)
            case ["import", *_, name] if name[:1] in _QUOTES:
                imports.append(name.strip("".join(_QUOTES)))
    return Proto(package=package, services=tuple(services), imports=tuple(imports))


def closure(path: str, read_file: Callable[[str], bytes | None]) -> dict[str, bytes]:
    """A file of a project and those it imports, directly or not; what the project does not have is left out.

    Args:
        path: of the file; imports are relative to the project's root, too.
        read_file: returns the content of a file; None if the project does not have it.
    """
    found: dict[str, bytes] = {}
    pending = [path]
    while pending:
        each = pending.pop()
        source = None if each in found else read_file(each)
        if source is not None:
            found[each] = source
            pending += read(source).imports
    return found


_QUOTES = ("'", '"')


def _top_level(source: str) -> Iterator[list[str]]:
    """The words of each statement outside of all braces."""
    depth, words = 0, list[str]()
    for token in _TOKEN.finditer(source):
        word, mark = token["word"], token["mark"]
        if word and depth == 0:
            words.append(re.sub(r"\s", "", word))
        elif token["text"] and depth == 0:
            words.append(token["text"] if words[:1] == ["import"] else "")
        elif mark:
            if depth == 0:
                yield words
                words = []
            depth = max(0, depth + (mark == "{") - (mark == "}"))
