"""What operators do with schedules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from workerqueue.v1 import schedule_pb2
from workerqueue_server.queue.cron import CronError
from workerqueue_server.queue.enqueue import EnqueueResult, NewTask, Outcome, new_task_id
from workerqueue_server.queue.errors import (
    InvalidTask,
    KeyBusy,
    ScheduleExists,
    ScheduleFromFile,
    ScheduleNotFound,
    Violation,
)
from workerqueue_server.queue.keyed import KeyedEnqueuer, keyed_batch, result_of
from workerqueue_server.queue.lanes import LaneTable
from workerqueue_server.queue.schedule_definition import (
    Definition,
    ReadTask,
    load_definition,
    read_definition,
    stored_definition,
    ticks_alike,
)
from workerqueue_server.store.schedules import (
    Advance,
    ScheduleRow,
    ScheduleStore,
    ScheduleTransaction,
)


class Reconciled(NamedTuple):
    """What reading a file changed."""

    created: list[str]
    updated: list[str]
    deleted: list[str]


@dataclass
class Schedules:
    """Every method raises QueueError or StoreError."""

    store: ScheduleStore
    lanes: LaneTable
    keyed: KeyedEnqueuer
    read_task: ReadTask
    # Called when a tick may come sooner than the loop that waits for it knows.
    changed: Callable[[], None]

    async def get(self, schedule_id: str) -> ScheduleRow:
        """A schedule."""
        row = await self.store.get(schedule_id)
        if row is None:
            raise ScheduleNotFound(schedule_id)
        return row

    async def page(self, after: str, size: int) -> list[ScheduleRow]:
        """Up to so many schedules with ids above ``after``, by id."""
        return await self.store.page(after, size)

    async def check(self, message: schedule_pb2.Schedule) -> tuple[Definition, datetime]:
        """Checks a definition without storing it; also the database's time, for its next ticks."""
        read_definition(message, self.read_task)
        definition = load_definition(stored_definition(message))
        async with self.store.editing() as transaction:
            return definition, await transaction.clock()

    async def create(self, message: schedule_pb2.Schedule) -> None:
        """Stores a new schedule."""
        _, task = read_definition(message, self.read_task)
        async with self.store.editing() as transaction:
            await self._insert(transaction, message, task.spec.kind, None)
        self.changed()

    async def update(self, message: schedule_pb2.Schedule, *, allow_missing: bool) -> None:
        """Replaces a schedule's definition, but not its pause."""
        _, task = read_definition(message, self.read_task)
        async with self.store.editing() as transaction:
            rows = await transaction.lock([message.schedule_id])
            if not rows and not allow_missing:
                raise ScheduleNotFound(message.schedule_id)
            if not rows:
                await self._insert(transaction, message, task.spec.kind, None)
            else:
                _refuse_file(rows[0])
                await self._update(transaction, rows[0], message, task.spec.kind)
        self.changed()

    async def delete(self, schedule_id: str, *, even_if_from_file: bool) -> None:
        """Deletes a schedule; the tasks that it made stay."""
        async with self.store.editing() as transaction:
            row = await self._locked(transaction, schedule_id)
            if not even_if_from_file:
                _refuse_file(row)
            await transaction.delete([schedule_id])

    async def set_paused(self, schedule_id: str, *, paused: bool) -> None:
        """Pauses a schedule, or resumes it from now on."""
        async with self.store.editing() as transaction:
            row = await self._locked(transaction, schedule_id)
            if row.paused != paused:
                rule = _load(row).rule
                next_tick = None if paused else rule.after(row.read_at)
                await transaction.pause(schedule_id, paused=paused, next_tick=next_tick)
        self.changed()

    async def trigger(
        self, schedule_id: str, task_id: bytes | None
    ) -> tuple[NewTask, EnqueueResult]:
        """Makes a schedule's task now, whatever its ticks, pause and overlap policy say."""
        async with self.store.editing() as transaction:
            row = await self._locked(transaction, schedule_id)
            request = _load(row).request_at(row.read_at, uid=None)
            task = self.read_task(request)
            task = task._replace(task_id=task_id or new_task_id(), client_id=task_id is not None)
            stored = await transaction.enqueue(
                await keyed_batch(self.lanes, [task], strict=[False], ends=[1])
            )
            result = result_of(stored, 0)
            if result is None:
                raise KeyBusy
            if result.error is not None:
                raise result.error
            if result.outcome in (Outcome.CREATED, Outcome.REPLACED):
                await transaction.advance(
                    [
                        Advance(
                            schedule_id,
                            row.next_tick,
                            last_problem=row.last_problem,
                            task_ids=[result.task_id or task.task_id],
                        )
                    ]
                )
        self.keyed.announce([task], stored)
        return task, result

    async def reconcile(
        self, owner: str, messages: Mapping[str, schedule_pb2.Schedule]
    ) -> Reconciled:
        """Makes the schedules of a file's owner what the file says.

        Servers that start with the same file take turns; the second finds everything done. Raises
        ScheduleExists for a schedule that somebody else declares.
        """
        kinds = {
            name: read_definition(message, self.read_task, "")[1].spec.kind
            for name, message in messages.items()
        }
        done = Reconciled([], [], [])
        async with self.store.editing() as transaction:
            await transaction.lock_file(owner)
            rows = {row.schedule_id: row for row in await transaction.lock(list(messages), owner)}
            for name, message in messages.items():
                row = rows.pop(name, None)
                if row is None:
                    await self._insert(transaction, message, kinds[name], owner)
                    done.created.append(name)
                elif row.file_owner != owner:
                    raise ScheduleExists(name)
                elif row.definition != stored_definition(message):
                    await self._update(transaction, row, message, kinds[name])
                    done.updated.append(name)
            if rows:
                done.deleted.extend(rows)
                await transaction.delete(done.deleted)
        self.changed()
        return done

    async def _locked(self, transaction: ScheduleTransaction, schedule_id: str) -> ScheduleRow:
        rows = await transaction.lock([schedule_id])
        if not rows:
            raise ScheduleNotFound(schedule_id)
        return rows[0]

    async def _insert(
        self,
        transaction: ScheduleTransaction,
        message: schedule_pb2.Schedule,
        kind: str,
        owner: str | None,
    ) -> None:
        stored = stored_definition(message)
        rule = load_definition(stored).rule
        made = await transaction.insert(
            message.schedule_id,
            kind,
            stored,
            file_owner=owner,
            paused=message.paused,
            next_tick=None if message.paused else rule.after(await transaction.clock()),
        )
        if not made:
            raise ScheduleExists(message.schedule_id)

    async def _update(
        self,
        transaction: ScheduleTransaction,
        row: ScheduleRow,
        message: schedule_pb2.Schedule,
        kind: str,
    ) -> None:
        stored = stored_definition(message)
        next_tick = row.next_tick
        old = schedule_pb2.Schedule.FromString(row.definition)
        if not row.paused and not ticks_alike(old, message):
            # From now on: a tick of the new times that has passed is not made up for.
            next_tick = load_definition(stored).rule.after(row.read_at)
        await transaction.update(row.schedule_id, kind, stored, next_tick)


def next_ticks(row: ScheduleRow, count: int) -> Sequence[datetime]:
    """The next ticks as they would be if the schedule were not paused."""
    try:
        return load_definition(row.definition).rule.first(count, row.read_at)
    except CronError:
        return []


def _load(row: ScheduleRow) -> Definition:
    try:
        return load_definition(row.definition)
    except CronError as error:
        # Another server's time zones may be newer than this one's.
        raise InvalidTask([Violation(error.field, str(error))]) from error


def _refuse_file(row: ScheduleRow) -> None:
    if row.file_owner is not None:
        raise ScheduleFromFile(row.schedule_id, row.file_owner)
