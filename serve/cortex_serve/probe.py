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
        with ask(address, timeout=timeout) as connection:
            status_line = connection.makefile("rb").readline(1024)
    except OSError as error:
        return f"a probe request failed: {error}"
    if not status_line.startswith(b"HTTP/1.1 200"):
        return f"a probe request was answered {status_line.decode('latin-1').strip() or 'nothing'}"
    return None


def ask(address: tuple[str, int], *, timeout: float) -> socket.socket:
    """Send the request, and leave the answer in the connection that is returned.

    Raises:
        OSError: it cannot be sent.
    """
    connection = socket.create_connection(address, timeout=timeout)
    try:
        connection.sendall(_REQUEST)
    except OSError:
        connection.close()
        raise
    return connection
