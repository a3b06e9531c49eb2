"""The tree is what ARCHITECTURE.md says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("cli/cortex", "cli/cortex_operator", "serve/cortex_core", "serve/cortex_serve")


def mentioned() -> set[str]:
    """Paths that ARCHITECTURE.md writes in backticks and that look like ours."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    return {
        match
        for match in re.findall(r"`([\w./-]+)`", text)
        if match.split("/")[0] in {p.name for p in ROOT.iterdir()}
    }


def test_architecture_names_only_what_exists() -> None:
    missing = sorted(path for path in mentioned() if not (ROOT / path.rstrip("/")).exists())
    assert missing == []


@pytest.mark.parametrize("package", PACKAGES)
def test_architecture_names_every_module(package: str) -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    modules = [
        path.relative_to(ROOT / package).as_posix()
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name not in ("__init__.py", "__main__.py")
    ]
    unnamed = [module for module in modules if not re.search(rf"`(?:[\w/]*/)?{re.escape(module)}`", text)]
    assert unnamed == []
