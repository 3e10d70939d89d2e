"""What operators do with queues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workerqueue_server.queue.catalog import QueueDeclaration
from workerqueue_server.queue.errors import QueueNotFound
from workerqueue_server.queue.wakeups import Wakeups
from workerqueue_server.store.reads import ReadStore, Record


@dataclass
class QueueAdmin:
    """Looks at queues and changes them. Every method raises QueueError or StoreError."""

    reads: ReadStore
    wakeups: Wakeups
    # What the contract declares.
    declared: Mapping[str, QueueDeclaration]

    async def page(self, after: str | None, size: int) -> list[Record]:
        """Queues by name."""
        return await self.reads.fetch("list_queues", {"after": after, "names": None, "limit": size})

    async def get(self, queue: str) -> Record:
        """One queue."""
        rows = await self.reads.fetch("list_queues", {"after": None, "names": [queue], "limit": 1})
        if not rows:
            raise QueueNotFound(queue)
        return rows[0]

    async def make(self, queue: str) -> None:
        """Makes a queue unless it exists."""
        await self.reads.fetch("make_queue", {"name": queue})

    async def limit(self, queue: str, per_worker: int | None, total: int | None) -> None:
        """Sets limits for good: 0 is no limit, None leaves one as it is."""
        await self._limit(queue, per_worker, total, operator=True)

    async def reset_limits(self, queue: str) -> None:
        """Goes back to the limits of the contract's declaration."""
        declared = self.declared.get(queue, QueueDeclaration(queue, None, None))
        await self._limit(
            queue,
            declared.max_in_flight_per_worker or 0,
            declared.max_in_flight or 0,
            operator=False,
        )

    async def pause(self, queue: str, *, paused: bool) -> None:
        """Stops leasing from a queue, or goes on. Once this returns, no grant overlooks it."""
        rows = await self.reads.fetch("pause_queue", {"name": queue, "paused": paused})
        self._announce(queue, rows)

    async def _limit(
        self, queue: str, per_worker: int | None, total: int | None, *, operator: bool
    ) -> None:
        rows = await self.reads.fetch(
            "limit_queue",
            {
                "name": queue,
                "per_worker": per_worker,
                "total": total,
                "operator_limits": operator,
            },
        )
        self._announce(queue, rows)

    def _announce(self, queue: str, changed: Sequence[Record]) -> None:
        if not changed:
            raise QueueNotFound(queue)
        self.wakeups.announce_settings()
