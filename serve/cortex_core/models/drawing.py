"""Directories as people draw them: those that are accepted and those that were found."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from cortex_core.models.wording import clipped

MOST_ENTRIES = 50
"""Files and directories shown of one tree; the outer ones first."""

Branches: TypeAlias = "dict[str, Branches]"

_PYTHON = ("(any files and directories)",)
_INFERENTIA = ("saved_model.pb",)
_TENSORFLOW = (
    "saved_model.pb",
    "variables/variables.index",
    "variables/variables.data-00000-of-00003",
    "variables/variables.data-00001-of-00003",
    "variables/variables.data-00002-of-...",
)
_ONE_MODEL = {"python": _PYTHON, "tensorflow": _TENSORFLOW, "tensorflow-inf": _INFERENTIA}


def accepted(layout: str, scope: str) -> tuple[tuple[str, ...], ...]:
    """The trees that a directory may hold, each as keys.

    Args:
        layout: "python", "tensorflow" or "tensorflow-inf".
        scope: what the directory is: a "version", a "model" or "models" (a `dir`).
    """
    one = _ONE_MODEL[layout]
    versioned = (*_below("1523423423/", one), *_below("2434389194/", one))
    if scope == "models":
        return ((*_below("text-generator/", one), *_below("sentiment-analyzer/", versioned)),)
    return (one, versioned) if scope == "model" else (one,)


def _below(folder: str, keys: Iterable[str]) -> tuple[str, ...]:
    return tuple(folder + key for key in keys)


def drawn(root: str, keys: Sequence[str]) -> str:
    """A tree of at most `MOST_ENTRIES` entries, indented by two; whatever the keys are, it can be printed."""
    entries = _entries(keys)
    shown = heapq.nsmallest(MOST_ENTRIES, entries, key=lambda entry: (entries[entry], entry))
    chosen = set(shown)
    tree: Branches = {}
    for entry in entries:
        if entry in chosen:
            _plant(tree, entry)
    lines = [root, *_lines(tree)]
    if len(entries) > len(shown):
        lines.append(f"… and {len(entries) - len(shown)} more")
    return "\n".join(f"  {line}" for line in lines)


def _entries(keys: Iterable[str]) -> dict[str, int]:
    """Files and directories (with `/` at the end), each with its depth, in the order of the keys."""
    entries: dict[str, int] = {}
    for key in keys:
        parts = key.split("/", MOST_ENTRIES)  # a directory is shown only with all it lies in: never deeper
        folder = ""
        for depth, part in enumerate(parts[:-1]):
            folder += f"{part}/"
            entries.setdefault(folder, depth)
        if parts[-1]:
            entries.setdefault(key, len(parts) - 1)
    return entries


def _plant(tree: Branches, entry: str) -> None:
    folders, _, name = entry.removesuffix("/").rpartition("/")
    for folder in folders.split("/") if "/" in entry.removesuffix("/") else ():
        tree = tree.setdefault(f"{folder}/", {})
    tree.setdefault(f"{name}/" if entry.endswith("/") else name, {})


def _lines(tree: Branches) -> Iterable[str]:
    for place, (name, below) in enumerate(tree.items(), start=1):
        is_last = place == len(tree)
        yield f"{'└── ' if is_last else '├── '}{clipped(name)}"
        yield from (f"{'    ' if is_last else '│   '}{line}" for line in _lines(below))
