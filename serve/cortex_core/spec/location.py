"""Where models are, as written in an API file: `s3://bucket/prefix`, `file:///folder`, or a path."""

from __future__ import annotations

import os.path
from pathlib import Path


def is_local(location: str) -> bool:
    """Whether it is a folder of the machine on which the API runs."""
    return "://" not in location or location.startswith("file://")


def is_relative(location: str) -> bool:
    """Whether it depends on where the API file lies, or on whose it is (`~`)."""
    return "://" not in location and not location.startswith("/")


def absolute(location: str, folder: Path | None) -> str:
    """The same location wherever it is read, with a `/` at its end.

    Args:
        location: as written.
        folder: that of the API file, absolute; None leaves relative locations as they are.
    """
    if is_relative(location) and folder is not None:
        location = str(folder / os.path.expanduser(location))  # noqa: PTH111  # Path's fails where nobody has a home
    return location if location.endswith("/") else f"{location}/"
