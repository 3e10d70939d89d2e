"""An operator's schedules, and what their ticks made.

Ticks come due when a test says so: it moves a schedule's next tick into the past, as if nobody had
been there to deal with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.integration.admin.toolkit import Admin
from tests.sql import Inspector, Row
from tests.toolkit import DEADLINE_SECONDS, eventually, request
from workerqueue.v1 import schedule_pb2 as pb
from workerqueue.v1 import worker_queue_pb2

DAY = timedelta(days=1)


class Schedules:
    """The calls about schedules, and a look at what ticks made."""

    def __init__(self, admin: Admin, sql: Inspector, name: str, now: datetime) -> None:
        self.admin = admin
        self.sql = sql
        self.name = name
        # Daily, twelve hours from now, so that no tick comes by itself; and half an hour later.
        self.latest = now.replace(minute=0, second=0, microsecond=0) - DAY / 2
        self.daily = f"0 {self.latest.hour} * * *"
        self.later_daily = f"30 {self.latest.hour} * * *"

    def definition(self, cron: str = "", **fields: Any) -> pb.Schedule:
        """A schedule of the test's own name; its tasks go to a queue of that name."""
        task = fields.pop("task", None) or request(queue=self.name)
        fields = {"schedule_id": self.name, **fields}
        return pb.Schedule(cron=cron or self.daily, task=task, **fields)

    async def create(self, cron: str = "", **fields: Any) -> pb.Schedule:
        """Creates."""
        made = pb.CreateScheduleRequest(schedule=self.definition(cron, **fields))
        answer = await self.admin.stub.CreateSchedule(made, timeout=DEADLINE_SECONDS)
        return answer.schedule

    async def update(
        self, cron: str = "", *, allow_missing: bool = False, **fields: Any
    ) -> pb.Schedule:
        """Replaces."""
        made = pb.UpdateScheduleRequest(
            schedule=self.definition(cron, **fields), allow_missing=allow_missing
        )
        return (await self.admin.stub.UpdateSchedule(made, timeout=DEADLINE_SECONDS)).schedule

    async def get(self, name: str = "", count: int = 0) -> pb.Schedule:
        """Reads."""
        made = pb.GetScheduleRequest(schedule_id=name or self.name, next_run_times=count)
        return (await self.admin.stub.GetSchedule(made, timeout=DEADLINE_SECONDS)).schedule

    async def pause(self) -> pb.Schedule:
        """Pauses."""
        made = pb.PauseScheduleRequest(schedule_id=self.name)
        return (await self.admin.stub.PauseSchedule(made, timeout=DEADLINE_SECONDS)).schedule

    async def resume(self) -> pb.Schedule:
        """Resumes."""
        made = pb.ResumeScheduleRequest(schedule_id=self.name)
        return (await self.admin.stub.ResumeSchedule(made, timeout=DEADLINE_SECONDS)).schedule

    async def trigger(self, task_id: str = "") -> worker_queue_pb2.EnqueueResponse:
        """Triggers."""
        made = pb.TriggerScheduleRequest(schedule_id=self.name, task_id=task_id)
        return (await self.admin.stub.TriggerSchedule(made, timeout=DEADLINE_SECONDS)).enqueued

    async def delete(self, name: str = "") -> None:
        """Deletes."""
        made = pb.DeleteScheduleRequest(schedule_id=name or self.name)
        await self.admin.stub.DeleteSchedule(made, timeout=DEADLINE_SECONDS)

    async def now(self) -> datetime:
        """The database's time."""
        now: datetime = await self.sql.value("select clock_timestamp()")
        return now

    async def set_due(self, since: datetime, *, wait: bool = True) -> None:
        """Makes this the next tick, and waits until all that is due is dealt with."""
        await self.sql.rows(
            "update workerqueue.schedules set next_tick = %s where schedule_id = %s",
            since,
            self.name,
        )
        if wait:
            await self.settled()

    async def settled(self) -> None:
        """Waits until no tick is due."""

        async def none_due() -> bool:
            next_tick = await self.sql.value(
                "select next_tick from workerqueue.schedules where schedule_id = %s", self.name
            )
            return next_tick is None or next_tick > await self.now()

        await eventually(none_due, "the due ticks are dealt with")

    async def tasks(self) -> list[Row]:
        """The tasks that it made, live or finished, by tick."""
        return await self.sql.rows(
            """
            select t.id::text, t.state::text, t.run_at, t.created_at, t.expire_at,
                   t.metadata ->> 'workerqueue.tick' as tick
              from (select id, state, run_at, created_at, expire_at, metadata
                      from workerqueue.tasks
                     union all
                    select id, state, run_at, created_at, expire_at, metadata
                      from workerqueue.history) t
             where t.metadata ->> 'workerqueue.schedule' = %s
             order by tick, t.created_at
            """,
            self.name,
        )

    async def ticks(self) -> list[str]:
        """The ticks that made tasks."""
        return [task["tick"] for task in await self.tasks()]


def text(moments: Iterable[datetime]) -> list[str]:
    return [moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for moment in moments]
