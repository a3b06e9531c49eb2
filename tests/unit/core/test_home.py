"""Ports and folders of a home, and what is said when they cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from cortex_core.errors import CortexError
from cortex_core.home import Home


@pytest.mark.parametrize("text", ["abc", "0", "65536", "99999", "-1", "1.5", "²", "9" * 5000])
@pytest.mark.parametrize("name", ["CORTEX_GATEWAY_PORT", "CORTEX_OPERATOR_PORT"])
def test_ports_that_are_none(name: str, text: str) -> None:
    with pytest.raises(CortexError) as raised:
        Home.of({name: text})
    assert raised.value.message == f"{name} must be 1 to 65535, not '{text}'"


def test_ports() -> None:
    home = Home.of({"CORTEX_HOME": "/x", "CORTEX_GATEWAY_PORT": "65535", "CORTEX_OPERATOR_PORT": ""})
    assert (home.gateway_port, home.operator_port) == (65535, 8889)


def test_a_home_that_is_a_file(tmp_path: Path) -> None:
    root = tmp_path / "a file"
    root.touch()
    home = Home(root=root)
    with pytest.raises(CortexError) as raised:
        home.create()
    assert raised.value.message == f"{root} cannot be used: File exists"
    assert raised.value.hint == "choose another folder with CORTEX_HOME"
    with pytest.raises(CortexError, match="token cannot be used: Not a directory"):
        home.token()


def test_a_home_where_nothing_can_be_made() -> None:
    with pytest.raises(CortexError, match="/proc/foo cannot be used: No such file"):
        Home(root=Path("/proc/foo")).create()


def test_token(tmp_path: Path) -> None:
    home = Home(root=tmp_path)
    assert home.token() is None
    home.create()
    home.token_file.write_text("abc\n")
    assert home.token() == "abc"
    home.token_file.write_bytes(b"\xff")
    with pytest.raises(CortexError, match="it is damaged"):
        home.token()
