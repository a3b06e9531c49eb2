"""Who may talk to the operator: the holder of the token, from this machine, and not by way of a browser.

A token is asked for on loopback too, because every program and web page on this machine reaches loopback. The
Host header is checked because a web page may have its own name point to 127.0.0.1.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

TOKEN = re.compile(r"[0-9a-f]{64}")


def ensure_token(path: Path) -> str:
    """The shared secret, made when there is none yet; only its owner can read the file."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW)) as file:
            if TOKEN.fullmatch(token := file.read().strip()):
                path.chmod(0o600)
                return token
    except FileNotFoundError:
        pass
    token = secrets.token_hex(32)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    return token


def local_hosts(port: int) -> frozenset[str]:
    """The Host headers under which the operator is reached."""
    return frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]"))


def is_authorized(header: str | None, token: str) -> bool:
    """Whether an Authorization header carries the token; takes equally long for every wrong one."""
    scheme, _, given = (header or "").partition(" ")
    right = hmac.compare_digest(given.strip().encode(), token.encode())
    return right and scheme.lower() == "bearer"


def is_local(host: str | None, origin: str | None, hosts: Collection[str]) -> bool:
    """Whether a request was meant for this operator: by its Host, and by its Origin if a browser sent it."""
    if (host or "").lower() not in hosts:
        return False
    return origin is None or urlsplit(origin).netloc.lower() in hosts
