"""A line between an agent and its coordinator that keeps breaking."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any


class BadLine:
    """A way to a port whose connections break, each after a number of bytes drawn for it in one direction."""

    def __init__(self, port: int, seed: int, longest: int) -> None:
        self.broken = 0
        self._to = port
        self._drawn = random.Random(seed)
        self._longest = longest
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._start(self._accept)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in self._open:
            reset(connection)
        for thread in self._threads:
            thread.join(5)

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._listening.accept()
            except OSError:
                return
            try:
                outer = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                reset(inner)
                continue
            self._open += [inner, outer]
            budgets = [self._drawn.randrange(1, self._longest), 1 << 40]
            self._drawn.shuffle(budgets)
            self._start(self._carry, inner, outer, budgets[0])
            self._start(self._carry, outer, inner, budgets[1])

    def _carry(self, source: socket.socket, to: socket.socket, budget: int) -> None:
        try:
            while piece := source.recv(min(65536, budget)):
                to.sendall(piece)
                budget -= len(piece)
                if budget == 0:
                    self.broken += 1
                    break
        except OSError:
            pass
        reset(source), reset(to)


def reset(connection: socket.socket) -> None:
    """Close a connection as a cut line does: without a farewell."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    connection.close()
