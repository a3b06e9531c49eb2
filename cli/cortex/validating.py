"""Validating an API file and the folder around it, without an operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cortex import deploying
from cortex_core.errors import CortexError
from cortex_core.spec.problems import InvalidConfig
from cortex_core.spec.types import Api, kind_of


def validate(file: Path | None) -> tuple[Path, tuple[Api, ...]]:
    """Check an API file.

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
    return path, deploying.read(path).apis


def as_json(apis: tuple[Api, ...]) -> dict[str, Any]:
    """What `-o json` prints of a valid file."""
    return {
        "valid": True,
        "apis": [{"name": api.name, "kind": kind_of(api)} for api in apis],
        "problems": [],
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
