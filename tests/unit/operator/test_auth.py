"""The token and the check of where a request came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from cortex_operator.auth import ensure_token, is_authorized, is_local, local_hosts

HOSTS = local_hosts(8889)


def test_a_token_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "token"
    token = ensure_token(path)
    assert len(bytes.fromhex(token)) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert ensure_token(path) == token


def test_a_token_that_cannot_be_one_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("")
    assert len(ensure_token(path)) == 64
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("a" * 64)
    (tmp_path / "token").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        ensure_token(tmp_path / "token")


@pytest.mark.parametrize(
    ("header", "right"),
    [
        ("Bearer secret", True),
        ("bearer secret", True),
        ("Bearer secre", False),
        ("Bearer ", False),
        ("Basic secret", False),
        ("secret", False),
        ("Bearer sécret", False),
        (None, False),
    ],
)
def test_authorization(header: str | None, right: bool) -> None:
    assert is_authorized(header, "secret") == right


@pytest.mark.parametrize(
    ("host", "origin", "local"),
    [
        ("127.0.0.1:8889", None, True),
        ("localhost:8889", None, True),
        ("LOCALHOST:8889", "http://localhost:8889", True),
        ("[::1]:8889", None, True),
        ("127.0.0.1:8888", None, False),
        ("127.0.0.1", None, False),
        ("evil.test:8889", None, False),
        (None, None, False),
        ("127.0.0.1:8889", "http://evil.test", False),
        ("127.0.0.1:8889", "null", False),
    ],
)
def test_host_and_origin(host: str | None, origin: str | None, local: bool) -> None:
    assert is_local(host, origin, HOSTS) == local
