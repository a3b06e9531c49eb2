"""Projects to begin with: `cortex init`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from cortex_core import shipped
from cortex_core.errors import Conflict, CortexError
from cortex_core.spec.problems import closest

TEMPLATES: Mapping[str, str] = {
    "python": "a Python handler without a model, to be filled in",
    "async": "an async handler that answers in pieces",
}
"""Name and what it is; each is a folder below configs/templates/."""

FILES = ("cortex.yaml", "handler.py", "requirements.txt")
DEFAULT = "python"
_API_NAME = re.compile(r"(?!b-)[a-z](?:[-a-z0-9]{0,40}[a-z0-9])?")
"""What can be an API's name; see schemas/values.schema.json."""


def write(folder: Path, template: str) -> list[Path]:
    """Write a template's files into a folder, which is made; the API is named after it where that can be.

    Returns:
        The files written.

    Raises:
        CortexError: there is no such template, or the folder cannot be written.
        Conflict: one of the files is there already; nothing was written.
    """
    if template not in TEMPLATES:
        meant = closest(template, TEMPLATES)
        hint = f"did you mean '{meant}'?" if meant else f"there is: {', '.join(TEMPLATES)}"
        raise CortexError(f"there is no template '{template}'", hint=hint)
    present = [name for name in FILES if (folder / name).exists()]
    if present:
        raise Conflict(
            f"{folder / present[0]} exists already; nothing was written",
            hint="name another folder: cortex init DIR",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            text = shipped.config(f"templates/{template}/{name}")
            (folder / name).write_text(_named_after(folder, text) if name == "cortex.yaml" else text, "utf-8")
    except OSError as error:
        raise CortexError(f"{folder} cannot be written: {error.strerror}") from error
    return [folder / name for name in FILES]


def _named_after(folder: Path, config: str) -> str:
    name = folder.resolve().name.replace("_", "-")
    if not _API_NAME.fullmatch(name):
        return config
    return re.sub(r"^- name: .*$", f"- name: {name}", config, count=1, flags=re.MULTILINE)
