"""The address is taken first: the rest of the start needs half a minute, a busy port none."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


class CannotServe(Exception):
    """What keeps the server from serving, in words for the operator."""


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens on the address; raises CannotServe.

    It listens at once, although nobody accepts before the server is up: Linux binds a second
    socket to an address that may be reused (which a restart needs) until the first one listens.
    Who connects meanwhile waits.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
            sock.listen()
        except OSError as error:
            raise CannotServe(
                f"cannot listen on {host} port {port}: {error.strerror or error}; "
                "choose another with --host or --port"
            ) from error
        yield sock
