"""Ports that stay a test's own, also while nobody listens on them.

A server that is stopped and started again must find its port free. A port that the system picks
(`:0`) may by then be another process's, even the near end of an outgoing connection: those come
from the same range. These come from below it.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator

_LOWEST = 15_000
# Each of the processes that tests run in has a part of its own.
_PART = 1_000
_PARTS = 16


def _candidates() -> Iterator[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = _LOWEST + worker % _PARTS * _PART
    # Runs of the tests that are side by side on one machine begin at different places.
    number = random.SystemRandom().randrange(_PART)
    while True:
        yield first + number % _PART
        number += 1


_ports = _candidates()


def unused_port() -> int:
    """A port of the loopback interface that nobody uses and no other test is given."""
    for _ in range(_PART):
        port = next(_ports)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no port is free")
