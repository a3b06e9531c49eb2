"""What is wrong with an API file, as people read it.

The steps of reading a file (`document`, `schema`, `rules`) say what they found about a *path* of the
document; the document knows where that is and makes it a problem with line, column and an excerpt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import msgspec

from cortex_core.errors import CortexError

Path: TypeAlias = tuple[str | int, ...]
"""Keys and list indexes (from 0) from the root of the file, e.g. (0, "handler", "path")."""

LONGEST_EXCERPT = 120
LONGEST_VALUE = 60
MOST_SHOWN = 100
MOST_FINDINGS = 1000
LEAST_BEGINNING = 3


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of the source; lines and columns count from 1, the end column is exclusive."""

    line: int
    column: int
    end_line: int
    end_column: int


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One mistake, before it has a position.

    Attributes:
        path: what it is about.
        message: what is wrong and what to do, without the path.
        at_key: whether the key is to be pointed at instead of the value.
        about_missing: whether it is about something that is not there, so there may be several of one path.
        is_refused: whether the path should not be there at all, so nothing inside of it matters.
        span: the exact place, where the path does not say it.
        blocks: paths whose value cannot be trusted because of it, so that nothing more is said about them.
    """

    path: Path
    message: str
    at_key: bool = False
    about_missing: bool = False
    is_refused: bool = False
    span: Span | None = None
    blocks: tuple[Path, ...] = ()

    @property
    def blocked(self) -> tuple[Path, ...]:
        return self.blocks or (self.path,)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a line of a file.

    Attributes:
        filename: name of the file, as given.
        line, column: from 1, in characters.
        width: characters to underline, at least 1.
        source: the line of the file.
    """

    filename: str
    line: int
    column: int
    width: int
    source: str

    def __str__(self) -> str:
        return f"{self.filename}:{self.line}:{self.column}"

    def excerpt(self) -> str:
        """The source line and a caret below it."""
        source, column = self._cut()
        width = max(1, min(self.width, len(source) - column + 1))
        return f"{self.line:>4} | {source}\n     | {' ' * (column - 1)}{'^' * width}"

    def told(self, message: str) -> str:
        """A message about another file than the one that is read, with an excerpt of that."""
        return f"{self}: {message}\n{self.excerpt()}"

    def _cut(self) -> tuple[str, int]:
        """The source line as it can be printed, cut when it is long, and the column in that."""
        source = "".join(character if character.isprintable() else " " for character in self.source)
        if len(source) <= LONGEST_EXCERPT:
            return source, self.column
        start = max(0, min(self.column - 1 - LONGEST_EXCERPT // 3, len(source) - LONGEST_EXCERPT))
        return source[start : start + LONGEST_EXCERPT], self.column - start


class Problem(Place, frozen=True, kw_only=True):
    """One mistake with its position.

    Attributes:
        path: as people read it, e.g. "iris.handler.path"; "" when the whole file is meant.
        message: what is wrong and what to do; one line, and more where a drawing or another file says it better.
    """

    path: str
    message: str

    def render(self) -> str:
        """`file:line:column: path: message`, the source line, a caret below it, and further lines of the message."""
        message, newline, more = self.message.partition("\n")
        head = ": ".join(part for part in (str(self), self.path, message) if part)
        return f"{head}\n{self.excerpt()}{newline}{more}{newline}"


class InvalidConfig(CortexError):
    """The API file has problems.

    Args:
        problems: all of them, sorted by line and column.
        hint: where to read more.
    """

    def __init__(self, problems: Iterable[Problem], *, hint: str | None = None) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: (problem.line, problem.column)))
        super().__init__(self.render(), hint=hint)

    def render(self) -> str:
        """One block for each problem."""
        blocks = [problem.render() for problem in self.problems[:MOST_SHOWN]]
        more = len(self.problems) - MOST_SHOWN
        if more > 0:
            blocks.append(f"and {more} more problems")
        return "\n".join(blocks)


def shown(value: Any) -> str:
    """A value as it is quoted in a message, on one line and not too long."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return clipped(repr(value[: 2 * LONGEST_VALUE]))
        case dict():
            return "a map"
        case list():
            return "a list"
    return clipped(repr(value))


def clipped(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def listed(names: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {last} {names[-1]}"


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    import difflib

    if len(word) > LONGEST_VALUE:
        return None
    lowered = {name.lower().replace("-", "_"): name for name in known}
    matches = difflib.get_close_matches(word.lower().replace("-", "_"), lowered, n=1, cutoff=0.72)
    return lowered[matches[0]] if matches else None


def same_beginning(word: str, known: Iterable[str]) -> str | None:
    """The only known word that goes on where this one ends, or the other way round: `memory` and `mem`."""
    matches = [
        name
        for name in known
        if min(len(name), len(word)) >= LEAST_BEGINNING and (word.startswith(name) or name.startswith(word))
    ]
    return matches[0] if len(matches) == 1 else None
