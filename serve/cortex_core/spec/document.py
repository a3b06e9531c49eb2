"""YAML text → values that remember where they were written.

YAML 1.2's scalars, read strictly. What readers of YAML 1.1 and of 1.2 understand differently (`no`, `010`,
`1_000`) is refused with both ways to write it, and so is what JSON cannot hold (tags, infinity, keys that are
not strings). Aliases and merge keys (`<<`) work within limits, so no short file becomes a large one.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import yaml

from cortex_core.spec import scalar
from cortex_core.spec.problems import (
    MOST_FINDINGS,
    Finding,
    InvalidConfig,
    Path,
    Problem,
    Span,
    clipped,
    shown,
)

LARGEST_FILE = 1024 * 1024
DEEPEST = 40
MOST_VALUES = 50_000

_TOO_MANY = f"more than {MOST_VALUES} values, counting what aliases stand for"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_IN_QUOTES = ("while scanning a quoted scalar", "while scanning a double-quoted scalar")
_STRAY = {
    "did not find expected key": "a key is expected here; check indentation and quotes",
    "did not find expected '-' indicator": "an entry ('- …') is expected here; check the indentation",
}
_LINE_BREAK = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")
_UNPRINTABLE: re.Pattern[str] = yaml.reader.Reader.NON_PRINTABLE


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A value and where it was written.

    Attributes:
        value: plain Python: dict, list, str, int, float, bool or None.
        children: what is inside, by key or index.
        keys: where the keys of a map were written.
        size, depth: of what is inside, counted through aliases.
    """

    value: Any
    span: Span
    children: dict[str | int, Node] = {}
    keys: dict[str, Span] = {}
    size: int = 1
    depth: int = 1


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was read.

    Attributes:
        filename: for messages.
        root: its content.
        lines: its source lines.
    """

    filename: str
    root: Node
    lines: tuple[str, ...]

    def problem(self, finding: Finding) -> Problem:
        """Give a finding its position."""
        span = finding.span or self.find(finding.path, at_key=finding.at_key)
        return _problem(self.filename, self.lines, span, self.path_text(finding.path), finding.message)

    def find(self, path: Path, *, at_key: bool = False) -> Span:
        """Where the value (or key) at a path was written; for what is not there, what surrounds it."""
        node, key_span = self.root, None
        for part in path:
            child = node.children.get(part)
            if child is None:
                return key_span or node.span
            key_span = node.keys.get(part) if isinstance(part, str) else None
            node = child
        is_empty = (node.span.line, node.span.column) == (node.span.end_line, node.span.end_column)
        return key_span if key_span is not None and (at_key or is_empty) else node.span

    def path_text(self, path: Path) -> str:
        """The path as people read it: the API's name, or its ordinal, then keys."""
        return "".join(self._path_parts(path))

    def _path_parts(self, path: Path) -> Iterator[str]:
        if path and isinstance(path[0], int):
            entry = self.root.children.get(path[0])
            name = entry.value.get("name") if entry is not None and isinstance(entry.value, dict) else None
            is_named = isinstance(name, str) and name.isprintable() and 0 < len(name) <= 63
            yield str(name) if is_named else f"[{path[0] + 1}]"
            path = path[1:]
        for part in path:
            yield f"[{part + 1}]" if isinstance(part, int) else f".{_key_text(part)}"


def read(text: str | bytes, filename: str) -> tuple[Document, list[Finding]]:
    """Read one YAML document.

    Args:
        text: the file's content; bytes may be UTF-8 or, with a byte order mark, UTF-16.
        filename: for messages.

    Returns:
        The document and what is wrong in it that still allows to read on.

    Raises:
        InvalidConfig: it cannot be read at all.
    """
    source = _decoded(text, filename)
    lines = tuple(_LINE_BREAK.split(source))
    _refuse_unreadable(source, lines, filename)
    reading = _Reading()
    try:
        for event in yaml.parse(source, Loader=_LOADER):
            reading.take(event)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, filename, lines) from None
    except _Unreadable as error:
        problem = _problem(filename, lines, error.span, "", error.message)
        raise InvalidConfig([problem]) from None
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it cannot be parsed"
        raise InvalidConfig([_whole_file(filename, lines, f"invalid YAML: {reason}")]) from None
    root = reading.root or Node(value=None, span=Span(line=1, column=1, end_line=1, end_column=1))
    return Document(filename=filename, root=root, lines=lines), reading.findings


class _Unreadable(Exception):
    def __init__(self, span: Span, message: str) -> None:
        super().__init__(message)
        self.span = span
        self.message = message


class _Open(msgspec.Struct, kw_only=True):
    """A map or list whose end was not seen yet."""

    start: Any
    anchor: str | None
    is_map: bool
    children: dict[str | int, Node] = {}
    keys: dict[str, Span] = {}
    merged: list[Node] = []
    key: tuple[str | None, Span] | None = None
    """The key whose value comes next; a key that is refused is None."""


class _Reading:
    """Builds nodes from the parser's events, bottom up and without recursion."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self.findings: list[Finding] = []
        self._documents = 0
        self._values = 0
        self._open: list[_Open] = []
        self._anchors: dict[str, Node | None] = {}

    def take(self, event: Any) -> None:
        """Take the parser's next event."""
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise _Unreadable(
                        _span(event), "several documents in one file; remove the '---' between them"
                    )
            case yaml.AliasEvent():
                self._add(self._aliased(event))
            case yaml.ScalarEvent():
                self._take_scalar(event)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._start(event, is_map=isinstance(event, yaml.MappingStartEvent))
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._end(event)

    def _aliased(self, event: Any) -> Node:
        node = self._anchors.get(event.anchor)
        if node is None:
            known = event.anchor in self._anchors
            reason = "is inside what it stands for" if known else "has no anchor before it"
            raise _Unreadable(_span(event), f"invalid YAML: the alias '*{clipped(event.anchor)}' {reason}")
        return node

    def _take_scalar(self, event: Any) -> None:
        place = self._open[-1] if self._open else None
        if place is not None and place.is_map and place.key is None:
            place.key = self._key(event, place)
            return
        node = Node(value=self._scalar(event), span=_span(event))
        if event.anchor:
            self._anchors[event.anchor] = node
        self._add(node)

    def _key(self, event: Any, place: _Open) -> tuple[str | None, Span]:
        key, span = event.value, _span(event)
        if _is_plain(event):
            if key == "<<":
                return key, span
            if not isinstance(scalar.value_of(key), str) or scalar.ambiguity(key):
                self._report(f'a key must be a string; write it in quotes: "{key}"', span)
                return None, span
        elif event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            self._report(f"the tag '{_tag(event.tag)}' is not supported; remove it", span)
        if key in place.keys:
            first = place.keys[key].line
            self._report(
                f"the key {shown(key)} is given twice, on lines {first} and {span.line}; keep one", span, key
            )
            return None, span
        return key, span

    def _scalar(self, event: Any) -> Any:
        if not _is_plain(event):
            if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
                self._report(
                    f"the tag '{_tag(event.tag)}' is not supported; write the value plainly", _span(event)
                )
            return event.value
        ambiguity = scalar.ambiguity(event.value)
        if ambiguity:
            self._report(ambiguity, _span(event))
            return event.value
        value = scalar.value_of(event.value)
        unusable = scalar.unusable(event.value, value)
        if unusable:
            self._report(unusable, _span(event))
            return event.value
        return value

    def _start(self, event: Any, *, is_map: bool) -> None:
        if len(self._open) >= DEEPEST:
            raise _Unreadable(_span(event), f"nested deeper than {DEEPEST} levels")
        if event.tag not in (None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            self._report(
                f"the tag '{_tag(event.tag)}' is not supported; write the value plainly", _span(event)
            )
        if self._open and self._open[-1].is_map and self._open[-1].key is None:
            raise _Unreadable(_span(event), "a key must be a string, not a list or a map")
        if event.anchor:
            self._anchors[event.anchor] = None
        self._open.append(_Open(start=event.start_mark, anchor=event.anchor, is_map=is_map))

    def _end(self, event: Any) -> None:
        done = self._open.pop()
        self._merge(done, event)
        values = {key: child.value for key, child in done.children.items()}
        node = Node(
            value=values if done.is_map else list(values.values()),
            span=_span_between(done.start, event.end_mark),
            children=done.children,
            keys=done.keys,
            size=1 + sum(child.size for child in done.children.values()),
            depth=1 + max((child.depth for child in done.children.values()), default=0),
        )
        if done.anchor:
            self._anchors[done.anchor] = node
        self._add(node)

    def _merge(self, done: _Open, event: Any) -> None:
        """Add what `<<` names; keys that are there already win, but each one looked at counts."""
        self._count(
            sum(len(merged.children) for merged in done.merged), _span_between(done.start, event.end_mark)
        )
        for merged in done.merged:
            for key, child in merged.children.items():
                if key not in done.children:
                    done.children[key] = child
                    done.keys[str(key)] = merged.keys[str(key)]

    def _count(self, values: int, span: Span) -> None:
        self._values += values
        if self._values > MOST_VALUES:
            raise _Unreadable(span, _TOO_MANY)

    def _add(self, node: Node) -> None:
        self._count(1, node.span)
        if not self._open:
            self.root = node
            return
        place = self._open[-1]
        if not place.is_map:
            place.children[len(place.children)] = node
        elif place.key is None:
            if not isinstance(node.value, str):
                raise _Unreadable(node.span, "a key must be a string")
            place.key = (node.value, node.span)
        else:
            (key, span), place.key = place.key, None
            self._put(place, key, span, node)
        self._refuse_expansion(node)

    def _put(self, place: _Open, key: str | None, span: Span, node: Node) -> None:
        if key == "<<":
            maps = list(node.children.values()) if isinstance(node.value, list) else [node]
            if not all(isinstance(merged.value, dict) for merged in maps):
                self._report("'<<' merges maps; give it an alias of a map, such as *defaults", span)
            else:
                place.merged.extend(maps)
        elif key is not None:
            place.children[key] = node
            place.keys[key] = span

    def _refuse_expansion(self, node: Node) -> None:
        if node.size > MOST_VALUES:
            raise _Unreadable(node.span, _TOO_MANY)
        if len(self._open) + node.depth > DEEPEST:
            raise _Unreadable(node.span, f"nested deeper than {DEEPEST} levels")

    def _report(self, message: str, span: Span, key: str | None = None) -> None:
        if len(self.findings) >= MOST_FINDINGS:
            return
        path = [self._step(place) for place in self._open]
        if path and path[-1] == "?":
            path.pop()
        if key is not None:
            path.append(key)
        self.findings.append(Finding(path=tuple(path), message=message, span=span))

    def _step(self, place: _Open) -> str | int:
        if not place.is_map:
            return len(place.children)
        return (place.key[0] if place.key else None) or "?"


def _decoded(text: str | bytes, filename: str) -> str:
    if len(text) > LARGEST_FILE:
        raise InvalidConfig([_whole_file(filename, ("",), f"larger than {LARGEST_FILE // 1024 // 1024} MiB")])
    if isinstance(text, bytes):
        encoding = "utf-16" if text.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
        try:
            return text.decode(encoding).removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            raise _not_text(text, error, filename) from None
    return text.removeprefix("\ufeff")


def _not_text(data: bytes, error: UnicodeDecodeError, filename: str) -> InvalidConfig:
    lines = tuple(data.decode("latin-1").split("\n"))
    line = data.count(b"\n", 0, error.start) + 1
    column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
    span = Span(line=line, column=column, end_line=line, end_column=column + 1)
    message = f"not {error.encoding.upper()} text; save the file as UTF-8"
    return InvalidConfig([_problem(filename, lines, span, "", message)])


def _refuse_unreadable(source: str, lines: tuple[str, ...], filename: str) -> None:
    match = _UNPRINTABLE.search(source)
    if match is None:
        return
    starts = [0, *(found.end() for found in _LINE_BREAK.finditer(source))]
    line = bisect.bisect_right(starts, match.start())
    column = match.start() - starts[line - 1] + 1
    span = Span(line=line, column=column, end_line=line, end_column=column + 1)
    message = f"invalid YAML: the character {match[0]!a} is not allowed; remove it"
    raise InvalidConfig([_problem(filename, lines, span, "", message)])


def _syntax_error(error: yaml.MarkedYAMLError, filename: str, lines: tuple[str, ...]) -> InvalidConfig:
    mark = error.problem_mark or error.context_mark
    reason = error.problem or error.context or "it cannot be parsed"
    if error.context in _IN_QUOTES and reason.startswith("found unexpected") and error.context_mark:
        mark, reason = error.context_mark, "this quote is not closed"
    elif reason in _STRAY:
        reason = _STRAY[reason]
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    source = lines[line - 1] if line <= len(lines) else ""
    if "\t" in source[: column + 1] and ("cannot start any token" in reason or "tab character" in reason):
        reason = "a tab cannot indent; use spaces"
    span = Span(line=line, column=column, end_line=line, end_column=column + 1)
    return InvalidConfig([_problem(filename, lines, span, "", f"invalid YAML: {reason}")])


def _whole_file(filename: str, lines: tuple[str, ...], message: str) -> Problem:
    return _problem(filename, lines, Span(line=1, column=1, end_line=1, end_column=2), "", message)


def _problem(filename: str, lines: tuple[str, ...], span: Span, path: str, message: str) -> Problem:
    line = min(max(span.line, 1), len(lines))
    source = lines[line - 1]
    column = min(max(span.column, 1), max(len(source), 1))
    end = span.end_column if span.end_line == line else len(source.rstrip()) + 1
    width = max(1, min(end, len(source) + 1) - column)
    return Problem(
        filename=filename, line=line, column=column, width=width, path=path, message=message, source=source
    )


def _span(event: Any) -> Span:
    return _span_between(event.start_mark, event.end_mark)


def _span_between(start: Any, end: Any) -> Span:
    return Span(
        line=start.line + 1, column=start.column + 1, end_line=end.line + 1, end_column=end.column + 1
    )


def _key_text(key: str) -> str:
    return clipped(key) if key.isprintable() else shown(key)


def _is_plain(event: Any) -> bool:
    return event.tag is None and event.style in (None, "")


def _tag(tag: str) -> str:
    return clipped(tag.replace("tag:yaml.org,2002:", "!!"))
