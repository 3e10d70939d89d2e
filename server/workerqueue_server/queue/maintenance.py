"""Duties that time brings. Each has a loop of its own and outlives any error of another.

Every server runs all of them; rows are claimed one by one in the database, so no leader is needed
and any surviving server is enough.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

from workerqueue_server.queue import task_lines
from workerqueue_server.queue.duties import repeat
from workerqueue_server.queue.journal import Journal
from workerqueue_server.queue.leases import LeaseDesk
from workerqueue_server.queue.sessions import EndReason
from workerqueue_server.queue.wakeups import Wakeups
from workerqueue_server.store.tasks import TaskStore
from workerqueue_server.telemetry.instruments import UNKNOWN

_log = logging.getLogger(__name__)

_BATCH = 1_000
# Leases must be ended within a second of their clock.
_EXPIRY_SECONDS = 0.5
_PROMOTE_SECONDS = 1.0
_UNSTARTED_SECONDS = 1.0
_ADMIT_SECONDS = 2.0
_AUDIT_SECONDS = 5.0


class Maintenance:
    """The duties and their loops."""

    def __init__(
        self, store: TaskStore, desk: LeaseDesk, wakeups: Wakeups, journal: Journal
    ) -> None:
        self._store = store
        self._journal = journal
        self._desk = desk
        self._wakeups = wakeups
        self._due = asyncio.Event()
        self._due_at: float | None = None
        self._next_promotion = 0.0
        wakeups.on_due = self._due_in
        self._admit_after = ""

    def loops(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """The loops to run, by name."""
        return [
            ("expire leases", lambda: repeat("expire leases", self._expire)),
            ("promote due tasks", lambda: repeat("promote due tasks", self._promote)),
            ("expire unstarted tasks", lambda: repeat("expire unstarted", self._unstarted)),
            ("admit waiting tasks", lambda: repeat("admit waiting tasks", self._admit)),
            ("audit leases", lambda: repeat("audit leases", self._audit)),
        ]

    async def _expire(self) -> float:
        expired = await self._store.expire_leases(_BATCH)
        self._desk.attention.note(monotonic())
        if expired is None:
            return _EXPIRY_SECONDS
        ended = [
            (token, EndReason.TIMED_OUT if timed_out else EndReason.LEASE_LOST)
            for token, timed_out in zip(expired.tokens, expired.timed_out, strict=True)
        ]
        unknown = self._desk.expired(ended)
        self._wakeups.announce_ran_out(ended)
        self._wakeups.announce_ended(ended)
        self._wakeups.announce(expired.woken)
        if expired.tokens:
            _log.info("ended %d leases whose clock had passed", len(expired.tokens))
        if unknown:
            await self._note_unknown(unknown)
        return 0

    async def _note_unknown(self, ended: Sequence[tuple[bytes, str]]) -> None:
        """Leases of another server's workers ended here: which queues they are of, is looked up."""
        lanes = await self._store.queues_of([token[:16] for token, _ in ended])
        for token, outcome in ended:
            queue, kind = lanes.get(token[:16], (UNKNOWN, UNKNOWN))
            self._journal.ended_elsewhere(outcome, token, queue, kind)

    async def _promote(self) -> float:
        self._due.clear()
        promoted, woken = await self._store.promote_due(_BATCH)
        self._wakeups.announce(woken._replace(due_in_ms=None))
        task_lines.tell_count("became due", promoted)
        if promoted == _BATCH:
            return 0
        wait = min(_PROMOTE_SECONDS, (woken.due_in_ms or 1e9) / 1000)
        loop = asyncio.get_running_loop()
        self._next_promotion = loop.time() + max(0.001, wait)
        # Wakes early when a task that is due sooner is stored.
        while (rest := self._next_promotion - loop.time()) > 0:
            try:
                async with asyncio.timeout(rest):
                    await self._due.wait()
            except TimeoutError:
                break
            self._due.clear()
        return 0

    def _due_in(self, milliseconds: float) -> None:
        due = asyncio.get_running_loop().time() + max(0.0, milliseconds) / 1000
        if due < self._next_promotion:
            self._next_promotion = due
            self._due.set()

    async def _unstarted(self) -> float:
        dropped, woken = await self._store.expire_unstarted(_BATCH)
        task_lines.tell_count("expired unstarted", dropped)
        self._wakeups.announce(woken)
        return 0 if dropped == _BATCH else _UNSTARTED_SECONDS

    async def _admit(self) -> float:
        last_key, woken = await self._store.admit_waiting(self._admit_after, _BATCH)
        self._wakeups.announce(woken)
        self._admit_after = last_key or ""
        return _ADMIT_SECONDS

    async def _audit(self) -> float:
        await self._desk.audit()
        return _AUDIT_SECONDS
