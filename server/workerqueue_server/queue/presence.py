"""Makes this server's streams known to all servers, and drains workers that operators name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from psycopg.types.json import Jsonb

from workerqueue_server.queue.sessions import Session, SessionBook
from workerqueue_server.queue.wakeups import Wakeups
from workerqueue_server.store.reads import ReadStore

# Changes are gathered for so long: ten thousand workers that reconnect make a few statements.
_SYNC_SECONDS = 1.0
_BATCH = 2_000


@dataclass
class Presence:
    """Compares the sessions here with what was written and writes the difference."""

    reads: ReadStore
    book: SessionBook
    wakeups: Wakeups
    server_id: str
    kinds: Collection[str]
    # Tells the dispatcher that a session may take tasks again.
    changed: Callable[[Session], None]
    _written: dict[str, tuple[object, ...]] = field(default_factory=dict)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _soon: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.wakeups.on_drains = self._soon.set

    async def duty(self) -> float:
        """Waits until it is time, then synchronizes. Raises StoreError."""
        try:
            async with asyncio.timeout(_SYNC_SECONDS):
                await self._soon.wait()
        except TimeoutError:
            pass
        self._soon.clear()
        await self.sync()
        return 0

    async def sync(self) -> None:
        """Writes what changed here and applies what operators want. Raises StoreError."""
        async with self._lock:
            await self._write()
            drains = {
                row["worker_id"]: row["grace_ms"] / 1000
                for row in await self.reads.fetch("worker_drains")
            }
            self._apply(drains)

    async def leave(self) -> None:
        """This server stops: its streams are nobody's. Raises StoreError."""
        async with self._lock:
            await self.reads.fetch("delete_server", {"server_id": self.server_id})

    async def drain(self, worker_id: str, grace_ms: int, duration_ms: int) -> None:
        """Gives a worker no more tasks, on any server. Raises StoreError."""
        await self.reads.fetch(
            "drain_worker",
            {"worker_id": worker_id, "grace_ms": grace_ms, "duration_ms": duration_ms},
        )
        self.wakeups.announce_drains()
        await self.sync()

    async def resume(self, worker_id: str) -> None:
        """Ends a drain. Raises StoreError."""
        await self.reads.fetch("resume_worker", {"worker_id": worker_id})
        self.wakeups.announce_drains()
        await self.sync()

    async def _write(self) -> None:
        parameters = {"server_id": self.server_id, "kinds": list(self.kinds)}
        (row,) = await self.reads.fetch("beat", parameters)
        if row["is_new"]:
            self._written.clear()
        present = {s.session_id: _shape(s) for s in self.book.sessions.values()}
        changed = [key for key, shape in present.items() if self._written.get(key) != shape]
        for start in range(0, len(changed), _BATCH):
            chunk = changed[start : start + _BATCH]
            sessions = [dict(zip(_FIELDS, present[key], strict=True)) for key in chunk]
            await self.reads.fetch(
                "write_sessions", {"server_id": self.server_id, "sessions": Jsonb(sessions)}
            )
        gone = [key for key in self._written if key not in present]
        if gone:
            await self.reads.fetch("delete_sessions", {"session_ids": gone})
        self._written = present

    def _apply(self, drains: dict[str, float]) -> None:
        self.book.drained = frozenset(drains)
        for session in list(self.book.sessions.values()):
            grace = drains.get(session.worker_id)
            if grace is None and session.suspended:
                session.suspended = False
                self.changed(session)
            elif grace is not None and not session.suspended:
                session.suspended = True
                session.sink.drain(grace)


_FIELDS = ("session_id", "worker_id", "queues", "kinds", "max_in_flight", "draining")


def _shape(session: Session) -> tuple[object, ...]:
    return (
        session.session_id,
        session.worker_id,
        sorted(session.queues),
        sorted(session.kinds),
        session.places,
        session.draining,
    )
