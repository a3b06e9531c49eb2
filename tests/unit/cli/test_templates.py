from __future__ import annotations

from pathlib import Path

import pytest

from cortex import deploying, templates
from cortex_core.errors import Conflict, CortexError


@pytest.mark.parametrize("name", templates.TEMPLATES)
def test_every_template_is_valid(tmp_path: Path, name: str) -> None:
    written = templates.write(tmp_path / "new" / "folder", name)
    assert [path.name for path in written] == list(templates.FILES)
    (api,) = deploying.read(written[0]).apis
    assert api.name


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("my_iris", "my-iris"),
        ("Héllo Wörld", "hello"),
        ("b-side", "hello"),
        ("x" * 42, "x" * 42),
        ("x" * 43, "hello"),
    ],
)
def test_the_api_is_named_after_the_folder(tmp_path: Path, folder: str, name: str) -> None:
    written = templates.write(tmp_path / folder, "python")
    (api,) = deploying.read(written[0]).apis
    assert api.name == name


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "handler.py").write_text("mine")
    with pytest.raises(Conflict, match=r"handler\.py exists already; nothing was written"):
        templates.write(tmp_path, "python")
    assert [path.name for path in tmp_path.iterdir()] == ["handler.py"]


def test_unknown_template(tmp_path: Path) -> None:
    with pytest.raises(CortexError, match="there is no template 'pyhton'") as raised:
        templates.write(tmp_path, "pyhton")
    assert raised.value.hint == "did you mean 'python'?"
