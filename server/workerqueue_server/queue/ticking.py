"""Makes the tasks of due ticks.

Every server runs this loop. It locks schedules whose next tick has come, stores the tasks and moves
the schedules on, all in one transaction: a server that dies in the middle leaves the tick to
another one, and no other can deal with it meanwhile. The id of a tick's task follows from schedule
and tick, so that even a tick that is dealt with again makes no second task. Only the database's
clock counts; this server's own measures nothing but the wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from workerqueue_server.queue.cron import CronError
from workerqueue_server.queue.duties import repeat
from workerqueue_server.queue.enqueue import NewTask, Outcome
from workerqueue_server.queue.keyed import KeyedEnqueuer, keyed_batch, result_of
from workerqueue_server.queue.lanes import LaneTable
from workerqueue_server.queue.schedule_definition import (
    Definition,
    Overlap,
    ReadTask,
    load_definition,
)
from workerqueue_server.queue.ticks import Due, due
from workerqueue_server.store.errors import StatementFailed
from workerqueue_server.store.keyed import KeyedStored
from workerqueue_server.store.schedules import (
    Advance,
    ScheduleRow,
    ScheduleStore,
    ScheduleTransaction,
)

_log = logging.getLogger(__name__)

_BATCH = 200
# One transaction makes about so many tasks at most; one schedule's ticks stay together.
_MAX_TASKS = 2_000
# Changes made through other servers are noticed after so long.
_LONGEST_WAIT = 1.0
_BUSY_SECONDS = 0.1
_RETRY_SECONDS = 1.0
_PROBLEM_CHARACTERS = 1_000


@dataclass
class _Plan:
    """What to do about one schedule."""

    row: ScheduleRow
    definition: Definition
    due: Due
    tasks: list[NewTask] = field(default_factory=list)
    ticks: list[datetime] = field(default_factory=list)
    replaced: list[bytes] = field(default_factory=list)
    skipped: int = 0
    # Why its last tick makes no task.
    problem: str | None = None


class Ticker:
    """The loop."""

    def __init__(
        self,
        store: ScheduleStore,
        lanes: LaneTable,
        keyed: KeyedEnqueuer,
        kinds: Collection[str],
        read_task: ReadTask,
        cancel: Callable[[Sequence[bytes], str], Awaitable[None]],
    ) -> None:
        """``cancel`` ends live tasks, for a reason."""
        self._store = store
        self._lanes = lanes
        self._keyed = keyed
        # Schedules of other kinds wait for a server that knows them.
        self._kinds = sorted(kinds)
        self._read_task = read_task
        self._cancel = cancel
        self._changed = asyncio.Event()
        # After a transaction that failed, so many schedules are dealt with one by one.
        self._alone = 0

    def wake(self) -> None:
        """A tick may come sooner than known."""
        self._changed.set()

    async def run(self) -> None:
        """Runs until cancelled."""
        await repeat("schedules", self._round)

    async def _round(self) -> float:
        if (pause := await self._step()) > 0:
            await self._wait(pause)
        return 0

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()

    async def _step(self) -> float:
        """Deals with what is due; how many seconds to wait before the next step."""
        wait = await self._store.next_in(self._kinds)
        if wait is None:
            return _LONGEST_WAIT
        if wait > 0:
            return min(wait, _LONGEST_WAIT)
        rows: list[ScheduleRow] = []
        try:
            return await self._deal(rows)
        except StatementFailed as error:
            if len(rows) > 1:
                self._alone = len(rows)
            elif rows:
                await self._give_up(rows[0], error)
            else:
                raise
            return 0

    async def _deal(self, rows: list[ScheduleRow]) -> float:
        """One transaction. Adds the schedules that it locked to ``rows``, for when it fails."""
        limit = 1 if self._alone else _BATCH
        self._alone = max(0, self._alone - 1)
        async with self._store.ticking() as transaction:
            rows += await transaction.claim(self._kinds, limit)
            if not rows:
                # Another server is at it.
                return _BUSY_SECONDS
            plans = await self._plan(transaction, rows)
            if not plans:
                return _RETRY_SECONDS
            replaced = [task_id for plan in plans for task_id in plan.replaced]
            if replaced:
                # Apart and first: after a crash in between the tick is still due, and what was
                # cancelled stays so.
                await self._cancel(replaced, "A later tick of its schedule took its place.")
            tasks = [task for plan in plans for task in plan.tasks]
            stored = None
            if tasks:
                stored = await transaction.enqueue(
                    await keyed_batch(
                        self._lanes,
                        tasks,
                        strict=[False] * len(tasks),
                        ends=range(1, len(tasks) + 1),
                    )
                )
            advances, busy = _advances(plans, stored)
            await transaction.advance(advances)
        if stored is not None:
            self._keyed.announce(tasks, stored)
        return _BUSY_SECONDS if busy else 0

    async def _plan(
        self, transaction: ScheduleTransaction, rows: Iterable[ScheduleRow]
    ) -> list[_Plan]:
        found: list[tuple[ScheduleRow, Definition]] = []
        for row in rows:
            try:
                found.append((row, load_definition(row.definition)))
            except CronError as error:
                # Another server's time zones may be newer than this one's.
                _log.warning("schedule %s is left to others: %s", row.schedule_id, error)
        # In a thread: after a long outage there may be many ticks to go through.
        dues = await asyncio.to_thread(
            lambda: [due(d.rule, row.next_tick or row.read_at, row.read_at) for row, d in found]
        )
        watched = [
            task_id
            for row, definition in found
            if definition.overlap is not Overlap.ALLOW
            for task_id in row.task_ids
        ]
        live = await transaction.live_tasks(watched) if watched else set()
        plans: list[_Plan] = []
        count = 0
        for (row, definition), ticks in zip(found, dues, strict=True):
            plan = _Plan(row, definition, ticks)
            self._fill(plan, [task_id for task_id in row.task_ids if task_id in live])
            plans.append(plan)
            count += len(plan.tasks)
            if count >= _MAX_TASKS:
                break
        return plans

    def _fill(self, plan: _Plan, live: list[bytes]) -> None:
        """Decides by the overlap policy, and makes the tasks."""
        ticks = plan.due.ticks
        if plan.due.dropped and not ticks:
            plan.problem = "late: dropped by the catch-up policy"
        if plan.definition.overlap is Overlap.SKIP and ticks:
            chosen = [] if live else ticks[:1]
            if live:
                plan.problem = f"skipped: task {UUID(bytes=live[-1])} is still live"
            elif len(ticks) > 1:
                plan.problem = "skipped: the task of the tick before is still live"
        elif plan.definition.overlap is Overlap.REPLACE and ticks:
            chosen = ticks[-1:]
            plan.replaced = live
        else:
            chosen = ticks
        plan.skipped = len(ticks) - len(chosen)
        for tick in chosen:
            request = plan.definition.request_at(tick, uid=plan.row.uid)
            try:
                plan.tasks.append(self._read_task(request))
            except Exception as error:  # noqa: BLE001 - one schedule must not stop the others
                # Usually the contract has changed since the schedule was made.
                plan.skipped += 1
                plan.problem = _problem(plan.row, error)
            else:
                plan.ticks.append(tick)
                plan.problem = None if tick == ticks[-1] else plan.problem

    async def _give_up(self, claimed: ScheduleRow, error: StatementFailed) -> None:
        """Goes on after a tick that cannot be stored, so that it does not stop the later ones."""
        async with self._store.ticking() as transaction:
            rows = await transaction.lock([claimed.schedule_id])
            if not rows or rows[0].next_tick != claimed.next_tick:
                return
            row = rows[0]
            following = load_definition(row.definition).rule.after(row.read_at)
            await transaction.advance(
                [
                    Advance(
                        row.schedule_id,
                        following,
                        last_tick=row.next_tick,
                        last_problem=_problem(row, error),
                        ticks_skipped=1,
                    )
                ]
            )


def _problem(row: ScheduleRow, error: Exception) -> str:
    _log.error("schedule %s: a tick makes no task: %s", row.schedule_id, error)
    return f"failed: {error}"[:_PROBLEM_CHARACTERS].replace("\x00", "")


def _advances(plans: Sequence[_Plan], stored: KeyedStored | None) -> tuple[list[Advance], bool]:
    """How the schedules move on, and whether a tick must be tried again."""
    advances: list[Advance] = []
    any_busy = False
    place = 0
    for plan in plans:
        made: list[bytes] = []
        skipped, problem = plan.skipped, plan.problem
        next_tick, last_tick = plan.due.next, plan.due.last
        for task, tick in zip(plan.tasks, plan.ticks, strict=True):
            assert stored is not None
            result = result_of(stored, place)
            place += 1
            if result is None:
                # An open transaction has the key: this tick is due again at once.
                any_busy = True
                if next_tick is plan.due.next:
                    next_tick, last_tick = tick, plan.row.last_tick
                    problem = "waits: an open transaction has its job key or unique key"
            elif result.error is None and result.outcome in (Outcome.CREATED, Outcome.REPLACED):
                made.append(result.task_id or task.task_id)
            elif result.error is not None or result.outcome is Outcome.KEPT:
                skipped += 1
                kept = UUID(bytes=result.task_id) if result.task_id else "another one"
                problem = f"skipped: task {kept} has its key"
        advances.append(Advance(plan.row.schedule_id, next_tick, last_tick, problem, made, skipped))
    return advances, any_busy
