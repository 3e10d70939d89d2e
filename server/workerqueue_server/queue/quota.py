"""How many streams may be open at once, and how many tasks in flight for one principal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from workerqueue_server.queue import bounds
from workerqueue_server.queue.errors import Overloaded


class Allowance:
    """The tasks that one principal may have in flight, over all its streams on this server.

    Invariant: ``taken`` is the sum of what its streams hold and have reserved. It may pass the
    bound only by leases that the principal brings along when it reconnects.
    """

    __slots__ = ("__weakref__", "bound", "taken")

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.taken = 0

    @property
    def room(self) -> int:
        """How many more may be leased now; negative if more are held than may be."""
        return self.bound - self.taken


class StreamQuota:
    """Counts what is open. Invariant: no principal is counted without an open stream."""

    def __init__(
        self,
        total: int = bounds.LEASE_STREAMS,
        each: int = bounds.LEASE_STREAMS_PER_PRINCIPAL,
    ) -> None:
        self._total = total
        self._each = each
        self._open: Counter[str] = Counter()

    @contextmanager
    def stream(self, principal: str) -> Iterator[None]:
        """Counts a stream while the block runs; unknown principals ('') share all there are.

        Raises Overloaded if there are too many.
        """
        if self._open.total() >= self._total:
            raise Overloaded("this server has as many Lease streams as it can serve")
        if principal and self._open[principal] >= self._each:
            raise Overloaded(f"this token has {self._each} Lease streams on this server already")
        self._open[principal] += 1
        try:
            yield
        finally:
            self._open[principal] -= 1
            if not self._open[principal]:
                del self._open[principal]


class CallQuota:
    """Counts acks, nacks and heartbeats that wait as calls of their own, not in a stream's frame.

    A call costs as much as a hundred answers in a stream, so what the batchers bound by number is
    bounded here by a smaller one.
    """

    def __init__(self, total: int = bounds.ANSWER_CALLS) -> None:
        self._total = total
        self._open = 0

    @contextmanager
    def call(self) -> Iterator[None]:
        """Counts a call while the block runs. Raises Overloaded if there are too many."""
        if self._open >= self._total:
            raise Overloaded("too many calls wait for the database; try again")
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
