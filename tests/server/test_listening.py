"""The server's address is its own from the first moment."""

import socket

import pytest

from server.listening import CannotServe, listening
from tests.server.running import free_port


def test_of_two_servers_that_start_on_one_port_the_second_is_told_at_once() -> None:
    port = free_port()
    with (
        listening("127.0.0.1", port),
        pytest.raises(CannotServe, match=rf"port {port}: Address already in use; .* --port"),
        listening("127.0.0.1", port),
    ):
        pass


def test_who_connects_while_the_server_starts_waits() -> None:
    with (
        listening("127.0.0.1", free_port()) as sock,
        socket.create_connection(sock.getsockname(), timeout=5) as early,
    ):
        early.sendall(b"hello")
        accepted, _ = sock.accept()
        with accepted:
            assert accepted.recv(5) == b"hello"


def test_a_port_is_free_again_when_its_server_has_ended() -> None:
    port = free_port()
    with listening("127.0.0.1", port) as sock:
        early = socket.create_connection(sock.getsockname(), timeout=5)
        sock.accept()[0].close()  # the server ends the connection, so it lingers in TIME_WAIT
        early.close()
    with listening("127.0.0.1", port):
        pass
