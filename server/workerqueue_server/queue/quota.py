"""How many streams may be open at once, in all and for one principal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from workerqueue_server.queue import bounds
from workerqueue_server.queue.errors import Overloaded


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
