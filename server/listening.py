"""The address is taken first: the rest of the start needs half a minute, a busy port none."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


class CannotServe(Exception):
    """What keeps the server from serving, in words for the operator."""


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket bound to the address; raises CannotServe."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            raise CannotServe(
                f"cannot listen on {host} port {port}: {error.strerror or error}; "
                "choose another with --host or --port"
            ) from error
        yield sock
