"""Validating an API file and the folder around it, without an operator."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cortex import deploying
from cortex_core.errors import CortexError, StorageUnavailable
from cortex_core.spec.location import is_local
from cortex_core.spec.problems import InvalidConfig
from cortex_core.spec.types import Api, kind_of

if TYPE_CHECKING:
    from cortex_core.spec.load import Listing

LISTING_SECONDS = 0.2
"""For models in local folders; larger ones are looked at by the operator only."""


def validate(file: Path | None) -> tuple[Path, tuple[Api, ...]]:
    """Check an API file; of models only those in local folders.

    Args:
        file: None is `cortex.yaml` in the working directory.

    Returns:
        The file, and the APIs in it.

    Raises:
        InvalidConfig: the file has problems, all of them.
        InvalidProject: the folder around it cannot be shipped.
        CortexError: there is no such file.
    """
    path = deploying.find(file)
    local = partial(_list_here, path.absolute().parent)
    return path, deploying.read(path, list_locations=local).apis


def as_json(apis: tuple[Api, ...]) -> dict[str, Any]:
    """What `-o json` prints of a valid file."""
    return {
        "valid": True,
        "apis": [{"name": api.name, "kind": kind_of(api)} for api in apis],
        "problems": [],
    }


def _list_here(folder: Path, locations: Collection[str]) -> dict[str, Listing]:
    """Models in folders of this machine, if that is quick.

    Where the API file lies elsewhere than its operator runs, a folder that is not there may be the other machine's.
    """
    from cortex_core.models.listing import list_locations

    here = [
        location
        for location in locations
        if is_local(location) and (location.startswith(f"{folder}/") or Path(location).exists())
    ]
    found = list_locations(here, seconds=LISTING_SECONDS)
    return {
        location: listing
        for location, listing in found.items()
        if not isinstance(listing, StorageUnavailable)
    }


def error_document(error: CortexError, exit_code: int) -> dict[str, Any]:
    """What `-o json` prints otherwise."""
    problems = error.problems if isinstance(error, InvalidConfig) else ()
    return {
        "valid": False,
        "apis": [],
        "problems": [
            {
                "file": each.filename,
                "line": each.line,
                "column": each.column,
                "path": each.path,
                "message": each.message,
            }
            for each in problems
        ],
        "error": {"message": error.message, "hint": error.hint, "exit_code": exit_code},
    }
