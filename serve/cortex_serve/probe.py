"""One request through the request path, as a client makes it."""

from __future__ import annotations

import socket

_REQUEST = b"GET /info HTTP/1.1\r\nhost: replica\r\nuser-agent: cortex-probe\r\nconnection: close\r\n\r\n"


def failure(address: tuple[str, int], *, timeout: float) -> str | None:
    """Ask a replica for `/info`.

    Args:
        address: host and port.
        timeout: seconds for each step.

    Returns:
        What is wrong with the answer, or None.
    """
    try:
        with caller(address, timeout=timeout) as connection:
            ask(connection, address)
            status_line = connection.makefile("rb").readline(1024)
    except OSError as error:
        return f"a probe request failed: {error}"
    if not status_line.startswith(b"HTTP/1.1 200"):
        return f"a probe request was answered {status_line.decode('latin-1').strip() or 'nothing'}"
    return None


def caller(address: tuple[str, int], *, timeout: float) -> socket.socket:
    """A socket to `ask` this address with, which has a port of its own already.

    Args:
        timeout: seconds for each step.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    try:
        bound.settimeout(timeout)
        bound.bind((address[0], 0))
    except OSError:
        bound.close()
        raise
    return bound


def ask(connection: socket.socket, address: tuple[str, int]) -> None:
    """Connect, and send the request.

    Raises:
        OSError: it cannot be sent.
    """
    connection.connect(address)
    connection.sendall(_REQUEST)
