"""What a .proto file says about itself: its package, its services, the files it imports.

Only as much of the language is read as that takes; the compiler judges the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from cortex_core.spec.problems import Place

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
        package_at: where that stands, in characters of the text.
        services: the services' names.
        services_at: where each stands.
        imports: the files it imports, as it names them.
    """

    package: str | None
    package_at: int | None = None
    services: tuple[str, ...]
    services_at: tuple[int, ...] = ()
    imports: tuple[str, ...] = ()


def read(source: bytes) -> Proto:
    """Read a .proto file; what cannot be understood is skipped."""
    packages, services, imports = list[_Word](), list[_Word](), []
    for statement in _top_level(_text(source)):
        match statement:
            case [("package", _), name, *_]:
                packages.append(name)
            case [("service", _), name, *_]:
                services.append(name)
            case [("import", _), *_, (file, _)] if file[:1] in _QUOTES:
                imports.append(file.strip("".join(_QUOTES)))
    package = next((word for word in packages if word.text), None)
    return Proto(
        package=package.text if package else None,
        package_at=package.start if package else None,
        services=tuple(word.text for word in services),
        services_at=tuple(word.start for word in services),
        imports=tuple(imports),
    )


def place(path: str, source: bytes, name: str, start: int) -> Place:
    """Where a name stands in a file.

    Args:
        start: in characters of the text.
    """
    text = _text(source)
    begin = text.rfind("\n", 0, start) + 1
    line = text[begin:].partition("\n")[0].rstrip()
    return Place(
        filename=path,
        line=text.count("\n", 0, start) + 1,
        column=start - begin + 1,
        width=len(name),
        source=line,
    )


def _text(source: bytes) -> str:
    return source.decode("utf-8", errors="replace")


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


class _Word(NamedTuple):
    text: str
    start: int


def _top_level(source: str) -> Iterator[list[_Word]]:
    """The words of each statement outside of all braces."""
    depth, words = 0, list[_Word]()
    for token in _TOKEN.finditer(source):
        word, mark = token["word"], token["mark"]
        if word and depth == 0:
            words.append(_Word(re.sub(r"\s", "", word), token.start()))
        elif token["text"] and depth == 0:
            is_import = bool(words) and words[0].text == "import"
            words.append(_Word(token["text"] if is_import else "", token.start()))
        elif mark:
            if depth == 0:
                yield words
                words = []
            depth = max(0, depth + (mark == "{") - (mark == "}"))
