"""Ports that stay ours while nobody listens on them."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from cortex_operator.backends.ports import HOST, Port


@pytest.fixture
def port() -> Iterator[Port]:
    (port,) = Port.choose(1)
    yield port
    port.release()


def listening(number: int, *options: int) -> socket.socket:
    server = socket.socket()
    for option in options:
        server.setsockopt(socket.SOL_SOCKET, option, 1)
    try:
        server.bind((HOST, number))
        server.listen()
    except OSError:
        server.close()
        raise
    return server


@pytest.mark.parametrize("option", [socket.SO_REUSEADDR, socket.SO_REUSEPORT])
def test_a_replica_can_listen_on_a_held_port_again_and_again(port: Port, option: int) -> None:
    for _ in range(2):
        with listening(port.number, option), socket.create_connection((HOST, port.number), timeout=5):
            assert port.hold()


def test_nobody_else_gets_a_held_port(port: Port) -> None:
    with pytest.raises(OSError, match="in use"):
        listening(port.number)


def test_who_connects_while_nobody_listens_is_refused(port: Port) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port.number), timeout=5)


def test_no_port_is_chosen_twice() -> None:
    ports = Port.choose(200)
    try:
        assert len({port.number for port in ports}) == 200
    finally:
        for port in ports:
            port.release()


def test_a_port_in_use_is_held_once_it_is_free(port: Port) -> None:
    number = port.number
    port.release()
    adopted = Port.in_use(number)
    with listening(number, socket.SO_REUSEADDR):
        assert not adopted.hold()
    assert adopted.hold()
    with pytest.raises(OSError, match="in use"):
        listening(number)
    adopted.release()
