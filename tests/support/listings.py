"""Listings of model locations, written as keys."""

from __future__ import annotations

from collections.abc import Iterable

from cortex_core.storage import Entry

TENSORFLOW = ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001")


def entry(key: str, *, size: int = 3, etag: str = "a", modified_ns: int = 1) -> Entry:
    return Entry(key=key, size=size, etag=etag, modified_ns=modified_ns)


def listing(*keys: str) -> list[Entry]:
    """A key that ends in `/` marks a directory, as consoles of object stores make them."""
    return [entry(key, size=0 if key.endswith("/") else 3) for key in keys]


def saved_model(prefix: str = "", *, without: Iterable[str] = ()) -> list[str]:
    """The keys of a SavedModel."""
    return [f"{prefix}{path}" for path in TENSORFLOW if path not in without]
