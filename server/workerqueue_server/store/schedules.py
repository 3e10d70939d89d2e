"""The statements of schedules, on connections of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from psycopg.types.json import Jsonb

from workerqueue_server.store.binary import UuidArray
from workerqueue_server.store.keyed import KeyedStored, KeyedTasks, keyed_parameters, keyed_stored
from workerqueue_server.store.link import Link, Row, Transaction
from workerqueue_server.store.reads import ReadStore

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A server that freezes in the middle of a transaction must not keep its schedules for good.
_SETTINGS = "; set idle_in_transaction_session_timeout = '5s'"


class ScheduleRow(NamedTuple):
    """A schedule as it is stored."""

    schedule_id: str
    uid: bytes
    kind: str
    file_owner: str | None
    definition: bytes
    paused: bool
    next_tick: datetime | None
    last_tick: datetime | None
    last_problem: str | None
    # The last tasks that it made, newest last.
    task_ids: list[bytes]
    tasks_made: int
    ticks_skipped: int
    created_at: datetime
    updated_at: datetime
    # The database's time when this was read.
    read_at: datetime


class Advance(NamedTuple):
    """What became of a schedule's due ticks."""

    schedule_id: str
    next_tick: datetime | None
    last_tick: datetime | None = None
    last_problem: str | None = None
    # The tasks that were made, oldest first.
    task_ids: Sequence[bytes] = ()
    ticks_skipped: int = 0


class ScheduleTransaction:
    """One transaction about schedules. Every method raises StoreError."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def clock(self) -> datetime:
        """The database's time."""
        return _time((await self._transaction.fetch("clock"))[0][0])

    async def claim(self, kinds: Sequence[str], limit: int) -> list[ScheduleRow]:
        """Locks due schedules of these kinds that nobody else deals with."""
        rows = await self._transaction.fetch(
            "claim_schedules", {"kinds": list(kinds), "limit": limit}
        )
        return [_row(row) for row in rows]

    async def live_tasks(self, task_ids: Sequence[bytes]) -> set[bytes]:
        """Those of the tasks that are live."""
        rows = await self._transaction.fetch("live_tasks", {"ids": UuidArray(task_ids)})
        return {task_id.bytes for (task_id,) in rows}

    async def enqueue(self, batch: KeyedTasks) -> KeyedStored:
        """Stores tasks."""
        return keyed_stored(await self._transaction.fetch("enqueue_keyed", keyed_parameters(batch)))

    async def advance(self, advances: Sequence[Advance]) -> None:
        """Notes what became of due ticks."""
        await self._transaction.fetch(
            "advance_schedules", {"advances": Jsonb([_advance_json(a) for a in advances])}
        )

    async def lock_file(self, owner: str) -> None:
        """Makes servers that read the same file take turns until the end of the transaction."""
        await self._transaction.fetch("lock_schedule_file", {"file_owner": owner})

    async def lock(
        self, schedule_ids: Sequence[str], file_owner: str | None = None
    ) -> list[ScheduleRow]:
        """Locks the schedules with these ids and those that the file's owner declares."""
        rows = await self._transaction.fetch(
            "lock_schedules", {"schedule_ids": list(schedule_ids), "file_owner": file_owner}
        )
        return [_row(row) for row in rows]

    async def insert(
        self,
        schedule_id: str,
        kind: str,
        definition: bytes,
        *,
        file_owner: str | None,
        paused: bool,
        next_tick: datetime | None,
    ) -> bool:
        """Stores a schedule; False: there is one with this id."""
        rows = await self._transaction.fetch(
            "insert_schedule",
            {
                "schedule_id": schedule_id,
                "kind": kind,
                "file_owner": file_owner,
                "definition": definition,
                "paused": paused,
                "next_tick": next_tick,
            },
        )
        return bool(rows)

    async def update(
        self, schedule_id: str, kind: str, definition: bytes, next_tick: datetime | None
    ) -> None:
        """Replaces a locked schedule's definition."""
        await self._transaction.fetch(
            "update_schedule",
            {
                "schedule_id": schedule_id,
                "kind": kind,
                "definition": definition,
                "next_tick": next_tick,
            },
        )

    async def pause(self, schedule_id: str, *, paused: bool, next_tick: datetime | None) -> None:
        """Pauses or resumes a locked schedule."""
        await self._transaction.fetch(
            "pause_schedule",
            {"schedule_id": schedule_id, "paused": paused, "next_tick": next_tick},
        )

    async def delete(self, schedule_ids: Sequence[str]) -> None:
        """Deletes locked schedules."""
        await self._transaction.fetch("delete_schedules", {"schedule_ids": list(schedule_ids)})


class ScheduleStore:
    """Schedules in Postgres. Every method raises StoreError."""

    def __init__(self, dsn: str, reads: ReadStore) -> None:
        self._reads = reads
        self._ticks = Link(dsn, "ticks", _SETTINGS)
        self._edits = Link(dsn, "schedules", _SETTINGS)

    async def close(self) -> None:
        """Closes the connections."""
        await self._ticks.close()
        await self._edits.close()

    async def next_in(self, kinds: Sequence[str]) -> float | None:
        """Seconds until the next tick of any schedule of these kinds; None: there is none."""
        rows = await self._ticks.fetch("next_schedule", {"kinds": list(kinds)})
        return rows[0][0] / 1000 if rows else None

    @asynccontextmanager
    async def ticking(self) -> AsyncIterator[ScheduleTransaction]:
        """A transaction that deals with due ticks."""
        async with self._ticks.transaction() as transaction:
            yield ScheduleTransaction(transaction)

    @asynccontextmanager
    async def editing(self) -> AsyncIterator[ScheduleTransaction]:
        """A transaction that changes schedules on somebody's behalf."""
        async with self._edits.transaction() as transaction:
            yield ScheduleTransaction(transaction)

    async def get(self, schedule_id: str) -> ScheduleRow | None:
        """A schedule."""
        rows = await self._list([schedule_id], "", 1)
        return rows[0] if rows else None

    async def page(self, after: str, limit: int) -> list[ScheduleRow]:
        """Up to so many schedules with ids above ``after``, by id."""
        return await self._list(None, after, limit)

    async def _list(
        self, schedule_ids: list[str] | None, after: str, limit: int
    ) -> list[ScheduleRow]:
        rows = await self._reads.fetch(
            "list_schedules", {"schedule_ids": schedule_ids, "after": after, "limit": limit}
        )
        return [_row(tuple(row.values())) for row in rows]


def _time(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _optional_time(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _time(microseconds)


def _row(row: Row) -> ScheduleRow:
    made = ScheduleRow(*row)
    return made._replace(
        uid=row[1].bytes,
        next_tick=_optional_time(row[6]),
        last_tick=_optional_time(row[7]),
        task_ids=[task_id.bytes for task_id in row[9]],
        created_at=_time(row[12]),
        updated_at=_time(row[13]),
        read_at=_time(row[14]),
    )


def _advance_json(advance: Advance) -> dict[str, object]:
    return {
        "schedule_id": advance.schedule_id,
        "next_tick": advance.next_tick and advance.next_tick.isoformat(),
        "last_tick": advance.last_tick and advance.last_tick.isoformat(),
        "last_problem": advance.last_problem,
        "task_ids": [str(UUID(bytes=task_id)) for task_id in advance.task_ids],
        "ticks_skipped": advance.ticks_skipped,
    }
