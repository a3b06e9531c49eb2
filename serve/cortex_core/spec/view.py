"""One API of a file as the rules see it: values with defaults, and which of them can be trusted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from cortex_core.spec import schema
from cortex_core.spec.problems import Finding, Path


def views(entries: list[Any], findings: Iterable[Finding]) -> list[View]:
    """The APIs of a file, each with what is known to be wrong in it; only entries that are maps."""
    blocked: defaultdict[str | int, list[Path]] = defaultdict(list)
    for finding in findings:
        for index, *inner in (path for path in finding.blocked if path):
            blocked[index].append(tuple(inner))
    return [
        View(index, entry, blocked[index]) for index, entry in enumerate(entries) if isinstance(entry, dict)
    ]


class View:
    """One API.

    Args:
        index: position in the file, from 0.
        entry: its content.
        blocked: paths in it that are wrong already.
    """

    def __init__(self, index: int, entry: dict[str, Any], blocked: Iterable[Path]) -> None:
        self.index = index
        self._entry = entry
        self._blocked = tuple(blocked)

    @property
    def name(self) -> str | None:
        return self._entry.get("name") if self.is_sound("name") else None

    @property
    def kind(self) -> str | None:
        return self._entry.get("kind") if self.is_sound("kind") else None

    def get(self, path: str) -> Any:
        """The value at a dotted path, or its default."""
        value: Any = self._entry
        for part in path.split("."):
            if not isinstance(value, dict) or part not in value:
                return schema.keys()[path].default
            value = value[part]
        return value

    def has(self, path: str) -> bool:
        """Whether there is a value at the path, other than null."""
        value: Any = self._entry
        for part in path.split("."):
            if not isinstance(value, dict):
                return False
            value = value.get(part)
        return value is not None

    def is_sound(self, *paths: str) -> bool:
        """Whether nothing is wrong at, above or below the paths."""
        return not any(
            _overlap(tuple(path.split(".")), blocked) for path in paths for blocked in self._blocked
        )

    def values(self, *paths: str) -> tuple[Any, ...] | None:
        """The values at the paths, or None when one of them cannot be trusted."""
        return tuple(self.get(path) for path in paths) if self.is_sound(*paths) else None

    def finding(self, path: str, message: str, *inner: str | int, at_key: bool = False) -> Finding:
        """Something about a dotted path, and further into lists or maps."""
        return Finding(path=(self.index, *path.split("."), *inner), message=message, at_key=at_key)


def _overlap(one: Path, other: Path) -> bool:
    common = min(len(one), len(other))
    return one[:common] == other[:common]
