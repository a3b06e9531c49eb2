"""Adding and changing environments."""

from __future__ import annotations

from contextlib import closing
from urllib.parse import urlsplit

from cortex.environments import Environment
from cortex.session import Session
from cortex_core.errors import CortexError, NotFound


def configure(session: Session, name: str, *, endpoint: str | None, token: str | None) -> Environment:
    """Add an environment or change it, once an operator answers there and takes the token.

    Args:
        endpoint: None keeps the one it has.
        token: None keeps the one it has, or asks; "-" reads stdin.

    Raises:
        OperatorUnreachable: no operator answers there.
        CortexError: something needed is missing or wrong.
    """
    session.environments.check_name(name)
    try:
        known = session.environments.choose(name)
    except NotFound:
        known = None
    environment = Environment(
        name=name,
        operator_endpoint=_endpoint(endpoint or (known.operator_endpoint if known else None)),
        token=_token(session, token, known),
    )
    _verify(environment)
    session.environments.configure(environment)
    return environment


def _endpoint(url: str | None) -> str:
    if url is None:
        raise CortexError("the operator's address is missing", hint="add --operator-endpoint URL")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise CortexError(f"'{url}' is not an address", hint="write it like https://cortex.example.com")
    return url.rstrip("/")


def _token(session: Session, token: str | None, known: Environment | None) -> str:
    if token == "-":  # noqa: S105  # the word that stands for stdin
        token = session.console.read_all().decode().strip()
    elif token is None and known is not None:
        token = known.token
    elif token is None and session.console.can_ask:
        token = session.console.ask_secret("the operator's token")
    if not token:
        raise CortexError(
            "the operator's token is missing", hint="add --token TOKEN, or --token - to read it from stdin"
        )
    return token


def _verify(environment: Environment) -> None:
    from cortex.operator_client import OperatorClient

    client = OperatorClient(
        environment.operator_endpoint, token=environment.token, environment=environment.name
    )
    with closing(client):
        client.info()
        client.apis()
