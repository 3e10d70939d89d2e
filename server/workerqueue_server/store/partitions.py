"""The daily partitions of finished tasks and attempts."""

from __future__ import annotations

from typing import NamedTuple

from workerqueue_server.store.link import Link


class Drop(NamedTuple):
    """What came of an attempt to drop a partition. Both None: no partition's day is over."""

    # The partition that is gone.
    dropped: str | None
    # Who uses a table that is to be dropped.
    held_by: str | None


class PartitionStore:
    """Every method is one transaction; raises StoreError."""

    def __init__(self, dsn: str) -> None:
        # A connection of its own: to remove a large file takes its time.
        self._link = Link(dsn, "partitions")

    async def close(self) -> None:
        """Closes the connection."""
        await self._link.close()

    async def create(self, days: int) -> int:
        """Makes the partitions from today to so many days ahead; how many were new."""
        return int((await self._link.fetch("create_partitions", {"days": days}))[0][0])

    async def drop_expired(self, attempts_days: int) -> Drop:
        """Drops one partition whose day is over; attempts are kept for so many days."""
        rows = await self._link.fetch("drop_expired_partition", {"attempts_days": attempts_days})
        return Drop(*rows[0])

    async def forget_dropped_days(self) -> None:
        """Takes dropped partitions out of the statistics."""
        await self._link.fetch("forget_dropped_days")
