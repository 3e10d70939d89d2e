"""Statements about tasks for operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from psycopg.types.json import Jsonb

from workerqueue_server.store.binary import UuidArray
from workerqueue_server.store.reads import ReadStore, Record
from workerqueue_server.store.records import Woken
from workerqueue_server.store.tasks import woken


class Scan(NamedTuple):
    """A stretch of the list of tasks."""

    # What fits the filter, newest first, and the size of each one's payload, result and so on.
    ids: list[bytes]
    sizes: list[int]
    # How many tasks were looked at, and the last of them; None: the list ends here.
    examined: int
    last_id: bytes | None


class Ended(NamedTuple):
    """Tasks that were cancelled or deleted."""

    ids: list[bytes]
    # Their leases that ended with them.
    tokens: list[bytes]
    woken: Woken


class Revived(NamedTuple):
    """Tasks that run again, or now."""

    ids: list[bytes]
    woken: Woken


class Rescheduled(NamedTuple):
    """What became of a wish to move a task in time."""

    # "done", "not_found" or "wrong_state"
    outcome: str
    woken: Woken


class RemovedJob(NamedTuple):
    """What became of the holders of a job key."""

    cancelled: bytes | None
    released: bytes | None
    woken: Woken


class TaskAdminStore:
    """Every method is one transaction; raises StoreError."""

    def __init__(self, reads: ReadStore) -> None:
        self._reads = reads

    async def scan(
        self, before: bytes | None, task_filter: Mapping[str, object], wanted: int, limit: int
    ) -> Scan:
        """Goes through tasks from the largest id below ``before`` (None: from the end)."""
        row = await self._one(
            "scan_tasks",
            {
                "before": before.hex() if before is not None else None,
                "filter": Jsonb(dict(task_filter)),
                "wanted": wanted,
                "scan": limit,
            },
        )
        last = row["last_id"]
        return Scan(
            [task_id.bytes for task_id in row["ids"]],
            row["bytes"],
            row["examined"],
            last.bytes if last is not None else None,
        )

    async def cancel(
        self, ids: Sequence[bytes], states: Sequence[str] | None, reason: str | None
    ) -> Ended:
        """Cancels live tasks in these states (None: any)."""
        parameters = {
            "ids": UuidArray(ids),
            "states": list(states) if states is not None else None,
            "reason": reason,
        }
        return _ended(await self._reads.fetch("cancel_tasks", parameters))

    async def delete(self, ids: Sequence[bytes], states: Sequence[str] | None) -> Ended:
        """Deletes tasks in these states (None: any)."""
        parameters: dict[str, object] = {
            "ids": UuidArray(ids),
            "states": list(states) if states is not None else None,
        }
        return _ended(await self._reads.fetch("delete_tasks", parameters))

    async def retry(
        self, ids: Sequence[bytes], states: Sequence[str] | None, attempts: int
    ) -> Revived:
        """Runs tasks in these states (None: any that can) again, or now."""
        row = await self._one(
            "retry_tasks",
            {
                "ids": UuidArray(ids),
                "states": list(states) if states is not None else None,
                "attempts": attempts,
            },
        )
        return Revived(
            [task_id.bytes for task_id in row["ids"] or ()],
            woken(row["lanes"], row["positions"]),
        )

    async def reschedule(self, task_id: bytes, run_at: str | None, delay_ms: int) -> Rescheduled:
        """Moves a waiting task to a time (RFC 3339) or, without one, to so long from now."""
        row = await self._one(
            "reschedule_task", {"id": task_id.hex(), "run_at": run_at, "delay_ms": delay_ms}
        )
        return Rescheduled(
            row["outcome"], woken(row["lanes"], row["positions"], None, row["wait_ms"])
        )

    async def set_priority(self, task_id: bytes, priority: int) -> Woken | None:
        """Gives a waiting task a priority; None: there is no such task that waits."""
        row = await self._one("set_task_priority", {"id": task_id.hex(), "priority": priority})
        return woken(row["lanes"], row["positions"]) if row["done"] else None

    async def remove_by_job_key(self, job_key: str) -> RemovedJob:
        """Ends the job that has a key."""
        row = await self._one("remove_by_job_key", {"job_key": job_key})
        cancelled, released = row["cancelled"], row["released"]
        return RemovedJob(
            cancelled.bytes if cancelled is not None else None,
            released.bytes if released is not None else None,
            woken(row["lanes"], row["positions"]),
        )

    async def _one(self, name: str, parameters: dict[str, object]) -> Record:
        (row,) = await self._reads.fetch(name, parameters)
        return row


def _ended(rows: list[Record]) -> Ended:
    if not rows:
        return Ended([], [], Woken())
    (row,) = rows
    return Ended(
        [task_id.bytes for task_id in row["ids"] or ()],
        row["tokens"] or [],
        woken(row["lanes"], row["positions"], row["freed_queues"]),
    )
