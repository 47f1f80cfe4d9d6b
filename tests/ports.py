"""Ports for what tests start: nobody else on this machine is given them, however many tests run beside each other."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

HOST = "127.0.0.1"


@contextmanager
def reserved_ports(count: int) -> Iterator[list[int]]:
    """Free ports, kept while it is open: bound, so that the system gives them to nobody who asks for any free one.

    Nothing listens at them, and with SO_REUSEADDR, which servers set too, who is told of a port binds it as well.
    """
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.bind((HOST, 0))
        yield [each.getsockname()[1] for each in sockets]
