"""What we ship beside the code: `schemas/` and `configs/`.

In an installed wheel they lie in this package under `data/`; in a checkout at the root of the repository.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema of that file name, e.g. "cortex.schema.json".

    Raises:
        FileNotFoundError: there is no such schema.
    """
    found: dict[str, Any] = json.loads(_text("schemas", name))
    return found


def config(name: str) -> str:
    """The text of a file below `configs/`, e.g. "reference/realtime-python.yaml".

    Raises:
        FileNotFoundError: there is no such file.
    """
    return _text("configs", name)


def config_path(name: str) -> str:
    """Where a file below `configs/` lies, for people to open."""
    return str(_place("configs", name))


def _text(folder: str, name: str) -> str:
    return _place(folder, name).read_text("utf-8")


def _place(folder: str, name: str) -> Path:
    installed = Path(__file__).parent / "data" / folder / name
    return installed if installed.is_file() else Path(__file__).parents[2] / folder / name
