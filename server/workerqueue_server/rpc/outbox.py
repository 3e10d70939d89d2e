"""What waits to be written to one stream, and how it is cut into frames."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

# gRPC clients accept 4 MiB by default; a single lease is at most a little over 3 MiB.
_FRAME_BYTES = 1024 * 1024
_FRAME_TASKS = 1_000
_FRAME_RESULTS = 8_000


class Outbox:
    """Encoded frame parts, newest last. Written by many, emptied by the stream's one writer.

    Results and cancellations go first: answers never wait behind task delivery.
    """

    def __init__(self) -> None:
        self._news: deque[bytes] = deque()
        # Encoded leases with their tokens: what is not written when the stream breaks goes back.
        self._tasks: deque[tuple[bytes, bytes]] = deque()
        self._changed = asyncio.Event()

    def add_news(self, parts: Sequence[bytes]) -> None:
        """Results, cancellations and notices."""
        self._news.extend(parts)
        self._changed.set()

    def add_task(self, token: bytes, part: bytes) -> None:
        """A granted lease."""
        self._tasks.append((token, part))
        self._changed.set()

    def withdraw(self, token: bytes) -> bool:
        """Takes a lease out that was not written yet; whether it was there."""
        for place, (waiting, _) in enumerate(self._tasks):
            if waiting == token:
                del self._tasks[place]
                return True
        return False

    def nudge(self) -> None:
        """Wakes the writer to look around."""
        self._changed.set()

    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._news and not self._tasks

    def unwritten(self) -> list[bytes]:
        """Tokens of leases that were not written."""
        return [token for token, _ in self._tasks]

    async def wait(self) -> None:
        """Returns when something was added or the writer was nudged."""
        await self._changed.wait()
        self._changed.clear()

    def next_frame(self) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """A frame, and the leases in it; empty when nothing waits."""
        parts: list[bytes] = []
        size = 0
        while self._news and len(parts) < _FRAME_RESULTS and size < _FRAME_BYTES:
            part = self._news.popleft()
            parts.append(part)
            size += len(part)
        leases: list[tuple[bytes, bytes]] = []
        while self._tasks and len(leases) < _FRAME_TASKS:
            part = self._tasks[0][1]
            if parts and size + len(part) > _FRAME_BYTES:
                break
            leases.append(self._tasks.popleft())
            parts.append(part)
            size += len(part)
        return b"".join(parts), leases

    def put_back(self, leases: Sequence[tuple[bytes, bytes]]) -> None:
        """Leases of a frame that could not be written."""
        self._tasks.extendleft(reversed(leases))
