"""Enqueues with job keys or uniqueness, and the care for the tasks that wait behind leases.

They wait for whoever has their key: another server's enqueue, or a producer that enqueued by SQL
and has not committed yet. So they have a batcher and a connection of their own, and plain enqueues
never wait with them. A request whose key is taken by an open transaction is tried again for some
seconds, while others go on.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from workerqueue_server.queue import bounds
from workerqueue_server.queue.batcher import Batcher
from workerqueue_server.queue.enqueue import EnqueueResult, NewTask, Outcome, Spec
from workerqueue_server.queue.errors import (
    BatchRefused,
    KeyBusy,
    KeyConflict,
    Overloaded,
    QueueError,
)
from workerqueue_server.queue.journal import Journal
from workerqueue_server.queue.lanes import LaneTable
from workerqueue_server.queue.wakeups import Wakeups
from workerqueue_server.store.errors import StoreError
from workerqueue_server.store.keyed import KeyedStore, KeyedStored, KeyedTasks
from workerqueue_server.store.records import NewTasks

_log = logging.getLogger(__name__)

_MAX_BATCH = 1_000
_MAX_WAITING = 40_000
_BUSY_SECONDS = 5.0
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5
# The care for what nobody announced.
_SETTLE_SECONDS = 2.0
_SETTLE_BATCH = 1_000
_FORGET_SECONDS = 30.0
_FORGET_BATCH = 5_000
_RETRY_SECONDS = 1.0
# What is to be settled or admitted soon; the rest is found by the care that needs no telling.
_MAX_SOON = 100_000
_NO_ID = bytes(16)

_OUTCOMES = {
    "created": Outcome.CREATED,
    "existed": Outcome.EXISTED,
    "replaced": Outcome.REPLACED,
    "kept": Outcome.KEPT,
}


def is_keyed(task: NewTask) -> bool:
    """Whether the task must be stored by the rules of this module."""
    return task.job_key is not None or task.unique_key is not None


class _Request(NamedTuple):
    """Tasks that are stored in one transaction, and with ``strict`` all or none."""

    tasks: Sequence[NewTask]
    strict: bool


class _Item(NamedTuple):
    task: NewTask
    request: _Request


class KeyedEnqueuer:
    """Gathers requests and stores them."""

    def __init__(
        self,
        store: KeyedStore,
        lanes: LaneTable,
        wakeups: Wakeups,
        care: KeyedCare,
        journal: Journal,
    ) -> None:
        self._store = store
        self._journal = journal
        self._lanes = lanes
        self._wakeups = wakeups
        self._care = care
        # A result is None if the request was not stored because a key is taken.
        self._batcher = Batcher[_Item, EnqueueResult | None](
            "enqueue keyed",
            self._flush,
            max_batch=_MAX_BATCH,
            max_waiting=_MAX_WAITING,
            max_wait_seconds=2 * bounds.ENQUEUE_WAIT_SECONDS,
            drop_abandoned=True,
        )
        # Tasks of calls under way, those between two tries among them, and their bytes.
        self._held = 0
        self._held_bytes = 0

    @property
    def waiting(self) -> int:
        """How many tasks wait to be stored."""
        return self._batcher.waiting

    async def run(self) -> None:
        """Stores until cancelled."""
        await self._batcher.run()

    async def enqueue(
        self, tasks: Sequence[NewTask], size: int, *, all_or_nothing: bool = False
    ) -> list[EnqueueResult]:
        """Stores the tasks of a call that holds ``size`` bytes, in one transaction.

        A task that is not unique has an error as its result, if it asks for one; the others are
        stored all the same unless all_or_nothing. Raises KeyBusy or Overloaded.
        """
        if self._held and (
            self._held + len(tasks) > _MAX_WAITING or self._held_bytes + size > bounds.WAITING_BYTES
        ):
            raise Overloaded("too many tasks wait for their keys; try again")
        self._held += len(tasks)
        self._held_bytes += size
        try:
            return await self._enqueue(_Request(tasks, all_or_nothing), size)
        finally:
            self._held -= len(tasks)
            self._held_bytes -= size

    async def _enqueue(self, request: _Request, size: int) -> list[EnqueueResult]:
        items = [_Item(task, request) for task in request.tasks]
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _BUSY_SECONDS
        pause = _FIRST_PAUSE
        while True:
            results = [r for r in await self._batcher.submit(items, size) if r is not None]
            if len(results) == len(items):
                return results
            if loop.time() + pause > deadline:
                raise KeyBusy
            # Spread, so that those who wait for one key do not all come back at once.
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _flush(self, items: list[_Item]) -> list[EnqueueResult | None]:
        tasks = [item.task for item in items]
        stored = await self._store.enqueue(
            await keyed_batch(
                self._lanes, tasks, [item.request.strict for item in items], _ends(items)
            )
        )
        return self.announce(tasks, stored)

    def announce(self, tasks: Sequence[NewTask], stored: KeyedStored) -> list[EnqueueResult | None]:
        """Tells whoever waits that tasks were stored, here or in another transaction.

        What became of each; None: an open transaction has its key.
        """
        self._wakeups.announce(stored.woken)
        self._care.settle_soon(stored.behind)
        self._wakeups.touched(
            task_id
            for task_id, outcome in zip(stored.task_ids, stored.outcomes, strict=True)
            if task_id is not None and outcome == "replaced"
        )
        results = [result_of(stored, place) for place in range(len(tasks))]
        self._journal.enqueued(tasks, results)
        return results


async def keyed_batch(
    lanes: LaneTable, tasks: Sequence[NewTask], strict: Sequence[bool], ends: Sequence[int]
) -> KeyedTasks:
    """The batch that the store takes; see KeyedTasks."""
    specs: dict[Spec, int] = {}
    spec_nos = [specs.setdefault(task.spec, len(specs)) for task in tasks]
    lane_ids = await lanes.ids([(s.queue, s.kind, s.priority) for s in specs])
    return KeyedTasks(
        NewTasks(
            ids=[task.task_id for task in tasks],
            payloads=[task.payload for task in tasks],
            keys=[task.concurrency_key for task in tasks],
            spec_nos=spec_nos,
            specs=[s.as_json(lane) for s, lane in zip(specs, lane_ids, strict=True)],
        ),
        job_keys=[task.job_key for task in tasks],
        unique_keys=[task.unique_key for task in tasks],
        client_ids=[task.client_id for task in tasks],
        strict=list(strict),
        ends=list(ends),
    )


def result_of(stored: KeyedStored, place: int) -> EnqueueResult | None:
    """What became of one task. None: not stored, because an open transaction has the key."""
    outcome = stored.outcomes[place]
    if outcome == "busy":
        return None
    error: QueueError | None = None
    if outcome == "conflict":
        task_id = str(uuid.UUID(bytes=stored.task_ids[place]))
        error = KeyConflict(f"task {task_id} is the same task", task_id=task_id)
    elif outcome == "refused":
        error = BatchRefused(stored.refused_by[place] or 0)
    return EnqueueResult(
        stored.stored_at,
        _OUTCOMES.get(outcome, Outcome.KEPT),
        stored.task_ids[place],
        error,
    )


def _ends(items: Sequence[_Item]) -> list[int]:
    """How many items there are up to the end of each request."""
    return [
        place + 1
        for place, item in enumerate(items)
        if place + 1 == len(items) or items[place + 1].request is not item.request
    ]


class KeyedCare:
    """Loops that let successors pass, admit what was enqueued by SQL, and forget old repeats."""

    def __init__(self, store: KeyedStore, wakeups: Wakeups) -> None:
        self._store = store
        self._wakeups = wakeups
        self._behind: set[bytes] = set()
        self._keys: set[str] = set()
        self._work = asyncio.Event()
        self._after = _NO_ID
        wakeups.on_keys = self.admit_soon
        wakeups.on_behind = self.settle_soon

    def loops(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """The loops to run, by name."""
        return [("settle successors", self._run), ("forget repeats", self._forget)]

    def settle_soon(self, behind: Iterable[bytes]) -> None:
        """Successors of these tasks were stored."""
        self._behind.update(islice(behind, max(0, _MAX_SOON - len(self._behind))))
        if self._behind:
            self._work.set()

    def admit_soon(self, keys: Iterable[str]) -> None:
        """Tasks that wait for these concurrency keys were stored, and nobody admitted for them."""
        self._keys.update(islice(keys, max(0, _MAX_SOON - len(self._keys))))
        if self._keys:
            self._work.set()

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_SETTLE_SECONDS):
                    await self._work.wait()
            except TimeoutError:
                pass
            self._work.clear()
            try:
                await self._work_through()
            except StoreError as error:
                _log.warning("successors not settled: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _work_through(self) -> None:
        if self._keys:
            keys = sorted(self._keys)
            self._wakeups.announce(await self._store.admit(keys))
            self._keys.difference_update(keys)
        behind = list(self._behind)
        if not behind:
            last, behind_stuck = await self._store.stuck_successors(self._after, _SETTLE_BATCH)
            self._after = last or _NO_ID
            behind = list(behind_stuck)
        if behind:
            self._wakeups.announce(await self._store.settle_successors(behind))
            self._behind.difference_update(behind)

    async def _forget(self) -> None:
        while True:
            try:
                forgotten = await self._store.forget_replaced(_FORGET_BATCH)
            except StoreError as error:
                _log.warning("old repeats not forgotten: %s", error)
                forgotten = 0
            if forgotten < _FORGET_BATCH:
                await asyncio.sleep(_FORGET_SECONDS)
