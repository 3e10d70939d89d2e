"""What operators do with tasks, one by one or by filter."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from workerqueue_server.queue import task_lines
from workerqueue_server.queue.errors import (
    InvalidTask,
    KeyConflict,
    TaskNotFound,
    Violation,
    WrongState,
)
from workerqueue_server.queue.lanes import LaneTable
from workerqueue_server.queue.sessions import EndReason
from workerqueue_server.queue.wakeups import Wakeups
from workerqueue_server.store.reads import FINAL_STATES, ReadStore, Record
from workerqueue_server.store.records import Woken
from workerqueue_server.store.task_admin import Ended, Scan, TaskAdminStore

LIVE_STATES = frozenset({"scheduled", "available", "blocked", "leased", "retrying"})

# One page of a list, and one step of a bulk operation, looks at so many tasks at most.
_SCAN = 20_000
# One transaction of a bulk operation changes so many at most.
_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks are meant; an empty field means any. Times are RFC 3339."""

    states: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    concurrency_key: str = ""
    job_key: str = ""
    worker_id: str = ""
    error_type: str = ""
    created_after: str = ""
    created_before: str = ""
    finished_after: str = ""
    finished_before: str = ""

    def as_json(self) -> dict[str, object]:
        """The fields that are set, as scan_tasks takes them."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in fields.items()
            if value
        }


class Progress(NamedTuple):
    """How far a bulk operation is."""

    examined: int = 0
    matched: int = 0
    changed: int = 0
    done: bool = False


# Changes tasks of these ids that still are in these states; how many.
Change = Callable[[Sequence[bytes], Sequence[str]], Awaitable[int]]


@dataclass
class TaskAdmin:
    """Looks through tasks and changes them. Every method raises QueueError or StoreError."""

    store: TaskAdminStore
    reads: ReadStore
    lanes: LaneTable
    wakeups: Wakeups
    # Replaced by tests that need more pages than tasks.
    scan_limit: int = field(default=_SCAN)

    async def page(self, task_filter: TaskFilter, before: bytes | None, size: int) -> Scan:
        """The next tasks that fit, newest first; fewer when many had to be passed over."""
        return await self.store.scan(before, task_filter.as_json(), size, self.scan_limit)

    async def cancel(self, task_id: bytes, reason: str | None) -> None:
        """Cancels a live task; one that is cancelled already stays so."""
        ended = await self.store.cancel([task_id], None, reason)
        self._announce_ended("cancelled", ended)
        if not ended.ids:
            state = (await self._record(task_id))["state"]
            if state != "cancelled":
                raise WrongState(_text(task_id), state, "only a live task can be cancelled")

    async def cancel_live(self, ids: Sequence[bytes], reason: str) -> None:
        """Cancels those of the tasks that are live."""
        self._announce_ended("cancelled", await self.store.cancel(ids, None, reason))

    async def delete(self, task_id: bytes) -> None:
        """Forgets a task."""
        ended = await self.store.delete([task_id], None)
        self._announce_ended("deleted", ended)
        if not ended.ids:
            raise _not_found(task_id)

    async def retry(self, task_id: bytes, attempts: int) -> None:
        """Runs a task again, or now; one that is available or blocked stays so."""
        revived = await self.store.retry([task_id], None, attempts)
        self._announce("retried", revived.ids, revived.woken)
        if revived.ids:
            return
        record = await self._record(task_id)
        state = record["state"]
        if state in ("available", "blocked"):
            return
        if state in ("leased", "succeeded"):
            advice = "it runs already" if state == "leased" else "enqueue a new task instead"
            raise WrongState(_text(task_id), state, advice)
        raise KeyConflict(
            "a live task has taken this task's key meanwhile; end that one first",
            task_id=await self._key_holder(task_id),
        )

    async def reschedule(
        self,
        task_id: bytes,
        *,
        priority: int | None,
        move: bool,
        run_at: str | None = None,
        delay_ms: int = 0,
    ) -> None:
        """Gives a waiting task a priority (None: its own) and, with ``move``, a new time.

        The time is ``run_at`` (RFC 3339) or, without one, ``delay_ms`` from now.
        """
        record = await self._record(task_id)
        if record["state"] not in LIVE_STATES - {"leased"}:
            raise self._not_waiting(task_id, record)
        if priority is not None and priority != record["priority"]:
            name = (record["queue"], record["kind"], priority)
            for error in self.lanes.admit([name]).values():
                raise error
            await self.lanes.ids([name])
            woken = await self.store.set_priority(task_id, priority)
            if woken is None:
                raise self._not_waiting(task_id, await self._record(task_id))
            self._announce("rescheduled", [task_id], woken)
        if move:
            moved = await self.store.reschedule(task_id, run_at, delay_ms)
            if moved.outcome != "done":
                raise self._not_waiting(task_id, await self._record(task_id))
            self._announce("rescheduled", [task_id], moved.woken)

    async def remove_by_job_key(self, job_key: str) -> tuple[bytes | None, bytes | None]:
        """Ends the job with a key: the ids of what is cancelled, and of what runs on without it."""
        removed = await self.store.remove_by_job_key(job_key)
        ids = [task_id for task_id in (removed.cancelled, removed.released) if task_id is not None]
        if not ids:
            raise TaskNotFound(f"no live task has the job key {job_key!r}", job_key=job_key)
        self._announce("cancelled", ids, removed.woken)
        return removed.cancelled, removed.released

    def cancel_all(
        self, task_filter: TaskFilter, reason: str | None, *, dry_run: bool
    ) -> AsyncGenerator[Progress, None]:
        """Cancels the live tasks that fit."""
        chosen = _with_states(task_filter, LIVE_STATES, LIVE_STATES)

        async def change(ids: Sequence[bytes], states: Sequence[str]) -> int:
            ended = await self.store.cancel(ids, states, reason)
            self._announce_ended("cancelled", ended)
            return len(ended.ids)

        return self._change_all(chosen, None if dry_run else change)

    def delete_all(
        self, task_filter: TaskFilter, *, dry_run: bool
    ) -> AsyncGenerator[Progress, None]:
        """Deletes the tasks that fit; leased ones only where the filter names that state."""
        every = LIVE_STATES | FINAL_STATES
        chosen = _with_states(task_filter, every, every - {"leased"})

        async def change(ids: Sequence[bytes], states: Sequence[str]) -> int:
            ended = await self.store.delete(ids, states)
            self._announce_ended("deleted", ended)
            return len(ended.ids)

        return self._change_all(chosen, None if dry_run else change)

    def retry_all(
        self, task_filter: TaskFilter, attempts: int, *, dry_run: bool
    ) -> AsyncGenerator[Progress, None]:
        """Runs the tasks that fit again, or now; without states: the dead ones."""
        allowed = (LIVE_STATES | FINAL_STATES) - {"leased", "succeeded"}
        chosen = _with_states(task_filter, allowed, {"dead"})

        async def change(ids: Sequence[bytes], states: Sequence[str]) -> int:
            revived = await self.store.retry(ids, states, attempts)
            self._announce("retried", revived.ids, revived.woken)
            return len(revived.ids)

        return self._change_all(chosen, None if dry_run else change)

    def purge(self, queue: str, *, dry_run: bool) -> AsyncGenerator[Progress, None]:
        """Deletes a queue's waiting tasks."""
        waiting = tuple(sorted(LIVE_STATES - {"leased"}))
        return self.delete_all(TaskFilter(queues=(queue,), states=waiting), dry_run=dry_run)

    async def _change_all(
        self, task_filter: TaskFilter, change: Change | None
    ) -> AsyncGenerator[Progress, None]:
        """Goes down the ids once, so that it ends whatever is enqueued or revived meanwhile."""
        progress = Progress()
        before: bytes | None = None
        while not progress.done:
            scan = await self.page(task_filter, before, _BATCH)
            changed = 0
            if change is not None and scan.ids:
                changed = await change(scan.ids, task_filter.states)
            before = scan.last_id
            progress = Progress(
                progress.examined + scan.examined,
                progress.matched + len(scan.ids),
                progress.changed + changed,
                before is None,
            )
            yield progress

    def _announce(self, event: str, ids: Iterable[bytes], woken: Woken) -> None:
        task_lines.tell_all(event, ids)
        self.wakeups.announce(woken)
        self.wakeups.touched(ids)

    def _announce_ended(self, event: str, ended: Ended) -> None:
        self.wakeups.announce_ended([(token, EndReason.CANCELLED) for token in ended.tokens])
        self._announce(event, ended.ids, ended.woken)

    async def _record(self, task_id: bytes) -> Record:
        record = (await self.reads.task_rows([task_id], full=False)).get(task_id)
        if record is None:
            raise _not_found(task_id)
        return record

    async def _key_holder(self, task_id: bytes) -> str:
        rows = await self.reads.fetch("key_holder", {"id": task_id.hex()})
        return str(rows[0]["id"]) if rows else ""

    @staticmethod
    def _not_waiting(task_id: bytes, record: Record) -> WrongState:
        return WrongState(
            _text(task_id), record["state"], "only a task that waits can be rescheduled"
        )


def _with_states(
    task_filter: TaskFilter, allowed: Iterable[str], default: Iterable[str]
) -> TaskFilter:
    """The filter with its states filled in. Raises InvalidTask."""
    if not task_filter.as_json():
        raise InvalidTask(
            [Violation("filter", "must not be empty: name at least the states you mean")]
        )
    forbidden = set(task_filter.states) - set(allowed)
    if forbidden:
        names = ", ".join(sorted(state.upper() for state in forbidden))
        raise InvalidTask([Violation("filter.states", f"{names} cannot be changed in this way")])
    return (
        task_filter if task_filter.states else replace(task_filter, states=tuple(sorted(default)))
    )


def _text(task_id: bytes) -> str:
    return str(uuid.UUID(bytes=task_id))


def _not_found(task_id: bytes) -> TaskNotFound:
    return TaskNotFound(f"there is no task {_text(task_id)}", task_id=_text(task_id))
