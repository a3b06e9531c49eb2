"""Integer versions: which directory names are one, and which version a request means."""

from __future__ import annotations

from bisect import bisect_left

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


def resolve(model: Model, version: str | int | None = None) -> Version:
    """The version that a handler means.

    Args:
        version: None or "latest" for the highest; otherwise an integer of zero or more, or its digits. A name
            is found exactly as written and, as no two versions have the same value, by its value: "7" finds
            007, "007" finds 7.

    Raises:
        UnknownVersion: the model has none such, or this cannot be a version.
    """
    if version is None or version == LATEST:
        return model.latest
    value = _value(version)
    if value is None:
        raise UnknownVersion(
            f'the model version must be a whole number or "{LATEST}", got {quoted(_text(version))}'
        )
    place = bisect_left(model.versions, value, key=lambda known: known.value)
    if place < len(model.versions) and model.versions[place].value == value:
        return model.versions[place]
    highest = [known.name for known in model.versions[: -_MOST_NAMED - 1 : -1]]
    called = "the model" if model.name == DEFAULT_MODEL else f"model {quoted(model.name)}"
    available = listed([quoted(name) for name in highest], of=len(model.versions))
    raise UnknownVersion(f"{called} has no version {quoted(_text(version))}; available: {available}")


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
