"""What waits to be written to one stream, and how it is cut into frames."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

# gRPC clients accept 4 MiB by default; a single lease is at most a little over 3 MiB.
_FRAME_BYTES = 1024 * 1024
_FRAME_TASKS = 1_000
_FRAME_RESULTS = 8_000
# Results that may wait for a worker that does not read: past that its frames are not read either.
# Leases need no bound here, since the stream's window bounds them.
_WAITING_NEWS_BYTES = 4 * 1024 * 1024
# Leases are kept together in pieces of at most this size, so that a piece fits behind any results.
_PIECE_BYTES = 128 * 1024


class Leases(NamedTuple):
    """Encoded leases that are written together."""

    tokens: list[bytes]
    parts: list[bytes]
    size: int


class Outbox:
    """Encoded frame parts, newest last. Written by many, emptied by the stream's one writer.

    Results and cancellations go first: answers never wait behind task delivery.
    """

    def __init__(self) -> None:
        self._news: deque[bytes] = deque()
        self._news_bytes = 0
        # With their tokens: what is not written when the stream breaks goes back.
        self._tasks: deque[Leases] = deque()
        self._changed = asyncio.Event()

    def add_news(self, parts: Sequence[bytes]) -> None:
        """Results, cancellations and notices."""
        self._news.extend(parts)
        self._news_bytes += sum(map(len, parts))
        self._changed.set()

    def add_tasks(self, tokens: list[bytes], parts: list[bytes]) -> None:
        """Granted leases, each with its encoded form."""
        self._tasks.extend(_pieces(tokens, parts))
        self._changed.set()

    def withdraw(self, token: bytes) -> bool:
        """Takes a lease out that was not written yet; whether it was there."""
        for place, leases in enumerate(self._tasks):
            if token in leases.tokens:
                at = leases.tokens.index(token)
                tokens, parts = leases.tokens.copy(), leases.parts.copy()
                del tokens[at]
                size = leases.size - len(parts.pop(at))
                if tokens:
                    self._tasks[place] = Leases(tokens, parts, size)
                else:
                    del self._tasks[place]
                return True
        return False

    def nudge(self) -> None:
        """Wakes the writer to look around."""
        self._changed.set()

    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._news and not self._tasks

    @property
    def is_overfull(self) -> bool:
        """Whether more results wait than a worker that reads them would leave."""
        return self._news_bytes > _WAITING_NEWS_BYTES

    def unwritten(self) -> list[bytes]:
        """Tokens of leases that were not written."""
        return [token for leases in self._tasks for token in leases.tokens]

    async def wait(self) -> None:
        """Returns when something was added or the writer was nudged."""
        await self._changed.wait()
        self._changed.clear()

    def next_frame(self) -> tuple[bytes, list[Leases]]:
        """A frame, and the leases in it; empty when nothing waits."""
        parts: list[bytes] = []
        size = 0
        while self._news and len(parts) < _FRAME_RESULTS and size < _FRAME_BYTES:
            part = self._news.popleft()
            parts.append(part)
            size += len(part)
        self._news_bytes -= size
        leases: list[Leases] = []
        count = 0
        while self._tasks and not (parts and self._overflows(count, size)):
            leases.append(self._tasks.popleft())
            parts += leases[-1].parts
            size += leases[-1].size
            count += len(leases[-1].tokens)
        return b"".join(parts), leases

    def _overflows(self, count: int, size: int) -> bool:
        """Whether the next leases are too much for a frame that holds this already."""
        tokens, _, more = self._tasks[0]
        if count == 0 and more <= _PIECE_BYTES:
            # However many results there are, some leases go with them.
            return False
        return count + len(tokens) > _FRAME_TASKS or size + more > _FRAME_BYTES

    def put_back(self, leases: Sequence[Leases]) -> None:
        """Leases of a frame that could not be written."""
        self._tasks.extendleft(reversed(leases))


def _pieces(tokens: list[bytes], parts: list[bytes]) -> Iterator[Leases]:
    sizes = list(map(len, parts))
    size = sum(sizes)
    if size <= _PIECE_BYTES and len(parts) <= _FRAME_TASKS:
        yield Leases(tokens, parts, size)
        return
    start = size = 0
    for end, more in enumerate(sizes):
        if end > start and (size + more > _PIECE_BYTES or end - start == _FRAME_TASKS):
            yield Leases(tokens[start:end], parts[start:end], size)
            start, size = end, 0
        size += more
    yield Leases(tokens[start:], parts[start:], size)
