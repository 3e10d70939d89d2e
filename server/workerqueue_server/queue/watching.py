"""Watching tasks: tells callers how their tasks change, whichever server changes them.

One loop per server serves all its watches: it compares short digests of the watched tasks with what
the callers saw last and reads only those that differ. It looks at a task when a hint names it, and
at all of them about once a second in case a hint was lost.

A server that changes tasks cannot know who waits for them, and naming every changed task in a hint
would cost the hot path dearly. So the interest travels the other way: each server tells the others
which tasks it watches, and they name those, and only those, when they change. Interest is forgotten
unless it is repeated, so a server that dies leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Sequence
from time import monotonic

from workerqueue_server.queue.errors import Draining, Overloaded, TaskNotFound
from workerqueue_server.store.errors import StoreError
from workerqueue_server.store.hints import HintSender
from workerqueue_server.store.reads import ReadStore, TaskSnapshot

_log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
# Polling may use at most this share of the time, however many tasks are watched.
_POLL_SHARE = 0.05
_BATCH = 2_000
# Read whole, so few at a time: a task may be 4 MiB.
_READ_BATCH = 50
_MAX_WATCHES = 50_000

_INTEREST_SECONDS = 30.0
_ANNOUNCE_SECONDS = 10.0
# Other servers' interest that is held in memory; beyond it their polls must do.
_MAX_FOREIGN = 500_000

_TELLING = (
    "state",
    "attempt",
    "max_attempts",
    "run_at",
    "priority",
    "started_at",
    "progress",
    "progress_message",
)


class Watch:
    """One caller's view of one task."""

    def __init__(self, task_id: bytes) -> None:
        self.task_id = task_id
        # What the database said when the caller was last told; None: nothing told yet.
        self.digest: str | None = None
        self._told: tuple[object, ...] = ()
        self._latest: TaskSnapshot | None = None
        self._error: Exception | None = None
        self._changed = asyncio.Event()

    def tell(self, digest: str, snapshot: TaskSnapshot) -> None:
        """The task is now like this. What the caller has not taken yet is replaced."""
        self.digest = digest
        # The snapshot may be newer than its digest: then the next one brings nothing new.
        told = tuple(snapshot.task[name] for name in _TELLING)
        if told == self._told:
            return
        self._told = told
        self._latest = snapshot
        self._changed.set()

    def end(self, error: Exception) -> None:
        """There is nothing more to tell."""
        self._error = error
        self._changed.set()

    async def next(self) -> TaskSnapshot:
        """The task after the next change. Raises what ended the watch."""
        await self._changed.wait()
        self._changed.clear()
        latest, self._latest = self._latest, None
        if latest is not None:
            if self._error is not None:
                self._changed.set()
            return latest
        assert self._error is not None
        raise self._error


class TaskWatcher:
    """All watches of this server."""

    def __init__(self, reads: ReadStore, hints: HintSender) -> None:
        self._reads = reads
        self._hints = hints
        self._watches: dict[bytes, set[Watch]] = {}
        self._count = 0
        self._dirty: set[bytes] = set()
        self._wake = asyncio.Event()
        # Tasks that other servers watch, and until when.
        self._foreign: dict[bytes, float] = {}
        self._draining = False

    async def watch(self, task_id: bytes) -> AsyncGenerator[TaskSnapshot, None]:
        """The task now and after each change; ends with its terminal state.

        Raises TaskNotFound, Overloaded, Draining or StoreError.
        """
        if self._draining:
            raise Draining
        if self._count >= _MAX_WATCHES:
            raise Overloaded("this server watches as many tasks as it can; try again later")
        watch = Watch(task_id)
        self._add(watch)
        try:
            while True:
                snapshot = await watch.next()
                yield snapshot
                if snapshot.is_final:
                    return
        finally:
            self._remove(watch)

    def touched(self, task_ids: Iterable[bytes]) -> None:
        """These tasks (ids, or lease tokens, which begin with them) changed here."""
        if not self._watches and not self._foreign:
            return
        foreign = []
        for name in task_ids:
            task_id = name[:16]
            if task_id in self._watches:
                self._dirty.add(task_id)
            if task_id in self._foreign:
                foreign.append(task_id)
        if self._dirty:
            self._wake.set()
        if foreign:
            self._hints.tasks(foreign)

    def changed_elsewhere(self, task_ids: Iterable[bytes]) -> None:
        """Another server says that these changed."""
        self._dirty.update(task_id for task_id in task_ids if task_id in self._watches)
        if self._dirty:
            self._wake.set()

    def note_interest(self, task_ids: Iterable[bytes]) -> None:
        """Another server watches these."""
        until = monotonic() + _INTEREST_SECONDS
        for task_id in task_ids:
            if task_id in self._foreign or len(self._foreign) < _MAX_FOREIGN:
                self._foreign[task_id] = until

    def announce_interest(self) -> None:
        """Tells the other servers again what is watched here."""
        self._hints.watched(self._watches)

    def drain(self) -> None:
        """Ends all watches: this server is going away."""
        self._draining = True
        for watches in self._watches.values():
            for watch in watches:
                watch.end(Draining())

    async def run(self) -> None:
        """Looks at what may have changed, until cancelled."""
        next_poll = 0.0
        while True:
            try:
                async with asyncio.timeout(max(0.0, next_poll - monotonic())):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            started = monotonic()
            everything = started >= next_poll
            wanted = list(self._watches if everything else self._dirty)
            self._dirty.clear()
            try:
                for start in range(0, len(wanted), _BATCH):
                    await self._look(wanted[start : start + _BATCH])
            except StoreError as error:
                _log.warning("watched tasks could not be read: %s", error)
            if everything:
                pause = (monotonic() - started) / _POLL_SHARE
                next_poll = monotonic() + max(_POLL_SECONDS, pause)

    async def run_interest(self) -> None:
        """Repeats this server's interest and forgets that of others, until cancelled."""
        while True:
            await asyncio.sleep(_ANNOUNCE_SECONDS)
            self.announce_interest()
            now = monotonic()
            self._foreign = {k: until for k, until in self._foreign.items() if until > now}

    async def _look(self, task_ids: Sequence[bytes]) -> None:
        digests = await self._reads.digests(task_ids)
        stale: list[bytes] = []
        for task_id in task_ids:
            watches = self._watches.get(task_id, ())
            digest = digests.get(task_id)
            if digest is None:
                for watch in watches:
                    watch.end(TaskNotFound("there is no such task (any more)"))
            elif any(watch.digest != digest for watch in watches):
                stale.append(task_id)
        for start in range(0, len(stale), _READ_BATCH):
            chunk = stale[start : start + _READ_BATCH]
            snapshots = await self._reads.snapshots(chunk)
            for task_id, snapshot in snapshots.items():
                for watch in self._watches.get(task_id, ()):
                    if watch.digest != digests[task_id]:
                        watch.tell(digests[task_id], snapshot)

    def _add(self, watch: Watch) -> None:
        self._watches.setdefault(watch.task_id, set()).add(watch)
        self._count += 1
        self._hints.watched([watch.task_id])
        self._dirty.add(watch.task_id)
        self._wake.set()

    def _remove(self, watch: Watch) -> None:
        self._count -= 1
        watches = self._watches[watch.task_id]
        watches.discard(watch)
        if not watches:
            del self._watches[watch.task_id]
