"""Integer versions: which directory names are one, and which version a request means."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from cortex_core.models.errors import UnknownVersion
from cortex_core.models.tree import DEFAULT_MODEL, Model, Version
from cortex_core.models.wording import listed, quoted

LATEST = "latest"

MOST_DIGITS = 128
"""Of a version. Integers have no limit of their own, names of directories have: this leaves room for a digest."""

_MOST_NAMED = 5


def is_version(name: str) -> bool:
    """Whether a directory's name says that it is a version: the digits 0-9, no sign, nothing else."""
    return name.isascii() and name.isdigit()


def order(name: str) -> int:
    """What directories' names are ordered by: a version's value, -1 for what is no version."""
    return int(name) if is_version(name) and len(name) <= MOST_DIGITS else -1


def resolve(model: Model, version: str | int | None = None) -> Version:
    """The version that a handler means.

    Args:
        version: None or "latest" for the highest; otherwise an integer of zero or more, or its digits. A name
            is found exactly as written and, as no two versions have the same value, by its value: "7" finds
            007, "007" finds 7.

    Raises:
        UnknownVersion: the model has none such, or this cannot be a version.
    """
    value = asked_value(version)
    if value is None:
        return model.latest
    place = bisect_left(model.versions, value, key=lambda known: known.value)
    if place < len(model.versions) and model.versions[place].value == value:
        return model.versions[place]
    raise no_such_version(model.name, version, [known.name for known in model.versions])


def asked_value(version: object) -> int | None:
    """What is asked for: None for the latest, else the version's value; -1 for one that is too long to be any.

    Raises:
        UnknownVersion: this cannot be a version.
    """
    if version is None or (isinstance(version, str) and version == LATEST):
        return None
    value = _value(version)
    if value is None:
        raise UnknownVersion(
            f'the model version must be a whole number or "{LATEST}", got {quoted(_text(version))}'
        )
    return value


def no_such_version(model: str, version: object, available: Sequence[str]) -> UnknownVersion:
    """What is said of a version that is not there.

    Args:
        model: its name inside.
        version: that was asked for.
        available: names of the versions that are there, by value.
    """
    called = "the model" if model == DEFAULT_MODEL else f"model {quoted(model)}"
    if not available:
        return UnknownVersion(f"all versions of {called} have been removed; add one to resume")
    highest = [quoted(name) for name in available[: -_MOST_NAMED - 1 : -1]]
    names = listed(highest, of=len(available))
    return UnknownVersion(f"{called} has no version {quoted(_text(version))}; available: {names}")


def _value(version: object) -> int | None:
    """None for what no version can be; -1 for a whole number that is too long for one."""
    if isinstance(version, str) and is_version(version):
        return int(version) if len(version) <= MOST_DIGITS else -1
    if isinstance(version, int) and not isinstance(version, bool) and version >= 0:
        return version
    return None


def _text(version: object) -> str:
    """Of whatever a handler passed on; integers of thousands of digits have no text in Python."""
    if isinstance(version, int) and version.bit_length() > 8 * MOST_DIGITS:
        return hex(version)
    return str(version) if isinstance(version, (str, int, float)) else type(version).__name__
