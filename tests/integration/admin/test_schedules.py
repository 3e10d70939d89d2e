"""Schedules: made, changed, ticking, and what becomes of late and overlapping ticks.

Ticks come due when the test says so: it moves a schedule's next tick into the past, as if nobody
had been there to deal with it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from psycopg import AsyncConnection

from tests.integration.admin.toolkit import Admin
from tests.postgres import Database
from tests.servers import ServerProcess
from tests.sql import Inspector, Row
from tests.toolkit import (
    DEADLINE_SECONDS,
    Api,
    dynamic,
    eventually,
    refused,
    request,
    seconds,
)
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import lease_pb2, policy_pb2, worker_queue_pb2
from workerqueue.v1 import schedule_pb2 as pb

SKIP, LATEST, ALL = (
    pb.CATCH_UP_POLICY_SKIP,
    pb.CATCH_UP_POLICY_LATEST,
    pb.CATCH_UP_POLICY_ALL,
)
DAY = timedelta(days=1)
HALF_AN_HOUR = timedelta(minutes=30)


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


@pytest.fixture
async def schedules(admin: Admin, sql: Inspector, queue: str) -> AsyncIterator[Schedules]:
    now: datetime = await sql.value("select clock_timestamp() at time zone 'UTC'")
    yield Schedules(admin, sql, queue, now.replace(tzinfo=UTC))
    # A schedule that a failed test left behind must not tick into another one.
    await sql.rows("delete from workerqueue.schedules where schedule_id like %s", f"{queue}%")


def text(moments: Iterable[datetime]) -> list[str]:
    return [moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for moment in moments]


# Definitions.


async def test_a_schedule_is_stored_as_it_was_given(schedules: Schedules) -> None:
    given = schedules.definition(
        "30 9 * * MON-FRI",
        time_zone="Europe/Berlin",
        task=dynamic("startRun", {"id": "x"}, priority=5, tags=["a"], delay=seconds(2)),
        catch_up=ALL,
        catch_up_limit=7,
        late_after=seconds(90),
        overlap=pb.OVERLAP_POLICY_REPLACE,
        jitter=seconds(30),
        expire_after=seconds(3600),
        description="for people",
    )
    made = await schedules.admin.stub.CreateSchedule(pb.CreateScheduleRequest(schedule=given))
    stored = made.schedule
    for field, value in given.ListFields():
        assert getattr(stored, field.name) == value
    assert stored.source == "api"
    assert stored.next_run_at == stored.next_run_times[0]
    assert len(stored.next_run_times) == 5
    assert all(time.ToDatetime().strftime("%M%S") == "3000" for time in stored.next_run_times)
    assert stored.created_at == stored.updated_at
    assert not stored.HasField("last_run_at")
    assert await schedules.get() == stored
    assert (await schedules.get(count=100)).next_run_times[:5] == stored.next_run_times


async def test_output_fields_of_a_request_are_ignored(schedules: Schedules) -> None:
    made = await schedules.create(source="file:x", tasks_made=5, last_problem="none", paused=True)
    assert (made.source, made.tasks_made, made.last_problem) == ("api", 0, "")
    assert made.paused
    assert not made.HasField("next_run_at")
    assert len(made.next_run_times) == 5


async def test_a_check_stores_nothing(schedules: Schedules) -> None:
    asked = pb.CreateScheduleRequest(schedule=schedules.definition(), validate_only=True)
    answer = await schedules.admin.stub.CreateSchedule(asked)
    assert len(answer.schedule.next_run_times) == 5
    problem = await refused(schedules.get())
    assert (problem.code, problem.reason) == (grpc.StatusCode.NOT_FOUND, "SCHEDULE_NOT_FOUND")
    assert problem.metadata["schedule_id"] == schedules.name


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"schedule_id": "with space"}, "schedule.schedule_id"),
        ({"schedule_id": ""}, "schedule.schedule_id"),
        ({"schedule_id": "nul\x00"}, "schedule.schedule_id"),
        ({"cron": "61 * * * *"}, "schedule.cron"),
        ({"time_zone": "Mars/Olympus"}, "schedule.time_zone"),
        ({"task": worker_queue_pb2.EnqueueRequest()}, "schedule.task.payload"),
        ({"task": dynamic("runFinished", {})}, "schedule.task.dynamic.args.id"),
        ({"task": dynamic("runFinnished", {"id": "x"})}, "schedule.task.dynamic.kind"),
        ({"task": request(priority=5000)}, "schedule.task.options.priority"),
        ({"task": request(run_at={"seconds": 1})}, "schedule.task.options.run_at"),
        ({"task": request(expire_at={"seconds": 1})}, "schedule.task.options.expire_at"),
        (
            {"task": request(task_id="019f0000-0000-7000-8000-000000000000")},
            "schedule.task.task_id",
        ),
        ({"catch_up": 9}, "schedule.catch_up"),
        ({"catch_up_limit": 1001}, "schedule.catch_up_limit"),
        ({"overlap": 9}, "schedule.overlap"),
        ({"late_after": seconds(0)}, "schedule.late_after"),
        ({"jitter": seconds(90_000)}, "schedule.jitter"),
        ({"expire_after": seconds(0)}, "schedule.expire_after"),
        ({"start_at": {"seconds": -1}}, "schedule.start_at"),
        ({"start_at": {"seconds": 9}, "end_at": {"seconds": 9}}, "schedule.end_at"),
        ({"description": "x" * 1025}, "schedule.description"),
        ({"description": "x" * 70_000}, "schedule"),
    ],
)
async def test_a_wrong_definition_is_refused_by_field(
    schedules: Schedules, fields: dict[str, Any], wrong: str
) -> None:
    for call in (schedules.create(**fields), schedules.update(allow_missing=True, **fields)):
        problem = await refused(call)
        assert problem.code is grpc.StatusCode.INVALID_ARGUMENT, problem
        assert list(problem.fields) == [wrong]


async def test_every_wrong_field_is_named(schedules: Schedules) -> None:
    problem = await refused(schedules.create("x", time_zone="y", jitter=seconds(-1)))
    assert set(problem.fields) == {"schedule.cron", "schedule.time_zone", "schedule.jitter"}


async def test_an_id_is_taken_once(schedules: Schedules) -> None:
    await schedules.create()
    problem = await refused(schedules.create())
    assert (problem.code, problem.reason) == (grpc.StatusCode.ALREADY_EXISTS, "SCHEDULE_EXISTS")


@pytest.mark.parametrize("call", ["get", "update", "pause", "resume", "trigger", "delete"])
async def test_calls_about_no_schedule_are_refused(schedules: Schedules, call: str) -> None:
    problem = await refused(getattr(schedules, call)())
    assert (problem.code, problem.reason) == (grpc.StatusCode.NOT_FOUND, "SCHEDULE_NOT_FOUND")


@pytest.mark.parametrize("name", ["", "with space", "nul\x00", "x" * 129])
async def test_what_can_be_no_id_is_refused(schedules: Schedules, name: str) -> None:
    schedules.name = name
    for call in (schedules.pause(), schedules.resume(), schedules.trigger()):
        problem = await refused(call)
        assert list(problem.fields) == ["schedule_id"]


async def test_schedules_are_listed_by_id_in_pages(schedules: Schedules) -> None:
    names = [f"{schedules.name}-{letter}" for letter in "abcde"]
    for name in reversed(names):
        await schedules.create(schedule_id=name)
    listed: list[str] = []
    token = ""
    while True:
        asked = pb.ListSchedulesRequest(page_size=2, page_token=token)
        page = await schedules.admin.stub.ListSchedules(asked)
        assert len(page.schedules) <= 2
        assert all(len(schedule.next_run_times) == 1 for schedule in page.schedules)
        listed += [schedule.schedule_id for schedule in page.schedules]
        token = page.next_page_token
        if not token:
            break
        # Neither what comes nor what goes moves the others.
        await schedules.create(schedule_id=f"{schedules.name}-a{len(listed)}")
    assert [name for name in listed if name in names] == names
    bad = await refused(
        schedules.admin.stub.ListSchedules(pb.ListSchedulesRequest(page_token="AAAA"))
    )
    assert list(bad.fields) == ["page_token"]


async def test_a_page_fits_a_message(schedules: Schedules) -> None:
    names = [f"{schedules.name}-{number:03}" for number in range(80)]
    big = dynamic("events.deliverScheduled", {"id": "x", "payload": "x" * 60_000})
    for name in names:
        await schedules.create(schedule_id=name, task=big, paused=True)
    listed: list[str] = []
    token = ""
    while token or not listed:
        asked = pb.ListSchedulesRequest(page_size=1000, page_token=token)
        page = await schedules.admin.stub.ListSchedules(asked)
        listed += [schedule.schedule_id for schedule in page.schedules]
        token = page.next_page_token
    assert [name for name in listed if name in names] == names


async def test_an_update_replaces_all_but_the_pause(schedules: Schedules) -> None:
    first = await schedules.create(description="old", paused=True, jitter=seconds(5))
    second = await schedules.update("30 * * * *", catch_up=SKIP)
    assert (second.cron, second.catch_up, second.description) == ("30 * * * *", SKIP, "")
    assert second.paused
    assert not second.HasField("jitter")
    assert second.created_at == first.created_at
    assert second.updated_at.ToDatetime() > first.updated_at.ToDatetime()
    resumed = await schedules.resume()
    assert resumed.next_run_at.ToDatetime().minute == 30


async def test_an_update_with_other_times_begins_from_now(schedules: Schedules) -> None:
    """Ticks of the new times that have passed are not made up for."""
    made = await schedules.create("0 0 29 2 *", catch_up=ALL)
    updated = await schedules.update(catch_up=ALL)
    assert updated.next_run_at.ToDatetime(UTC) == schedules.latest + DAY
    assert updated.next_run_at.ToDatetime() < made.next_run_at.ToDatetime()
    zoned = await schedules.update(catch_up=ALL, time_zone="Asia/Kathmandu")
    assert zoned.next_run_at.ToDatetime().minute == 15
    assert await schedules.ticks() == []


async def test_an_update_with_the_same_times_keeps_what_is_due(schedules: Schedules) -> None:
    await schedules.create()
    put_off = schedules.latest + 3 * DAY
    await schedules.set_due(put_off)
    updated = await schedules.update(description="new")
    assert updated.next_run_at.ToDatetime(UTC) == put_off


async def test_an_update_may_make_what_is_missing(schedules: Schedules) -> None:
    made = await schedules.update(allow_missing=True)
    assert made.HasField("next_run_at")
    assert await schedules.get() == made


# Ticks.


async def test_ticks_come_by_themselves(api: Api, schedules: Schedules) -> None:
    await schedules.create("* * * * * *")
    async with api.worker(schedules.name) as worker:
        tasks = await worker.tasks(3)
    ticks = [datetime.fromisoformat(task.metadata["workerqueue.tick"]) for task in tasks]
    assert [later - ticks[0] for later in ticks] == [timedelta(seconds=n) for n in range(3)]
    assert {task.metadata["workerqueue.schedule"] for task in tasks} == {schedules.name}
    seen = await schedules.get()
    assert seen.tasks_made >= 3
    assert seen.last_run_at.ToDatetime(UTC) >= ticks[-1]


async def test_a_tick_is_noticed_by_a_server_that_nobody_told(schedules: Schedules) -> None:
    """The row is written behind its back; `settled` sees it dealt with."""
    await schedules.create()
    await schedules.set_due(schedules.latest)
    assert await schedules.ticks() == text([schedules.latest])


async def test_a_task_is_made_by_the_policy_and_the_options(api: Api, schedules: Schedules) -> None:
    options = worker_queue_pb2.TaskOptions(
        queue=schedules.name,
        priority=7,
        max_attempts=9,
        timeout=seconds(100),
        tags=["one"],
        metadata={"mine": "yes"},
        concurrency_key="k",
        retry=policy_pb2.RetryPolicy(multiplier=3),
    )
    task = request(tasks_pb2.StartRun(id="of the schedule"))
    task.options.CopyFrom(options)
    await schedules.create(task=task)
    async with api.worker(schedules.name) as worker:
        await schedules.set_due(schedules.latest)
        leased = await worker.task()
    assert leased.kind == "startRun"
    payload = tasks_pb2.StartRun()
    assert leased.payload.Unpack(payload)
    assert payload.id == "of the schedule"
    assert (leased.max_attempts, leased.concurrency_key) == (9, "k")
    assert leased.metadata["mine"] == "yes"
    seen = await schedules.admin.get(leased.task_id)
    assert (seen.priority, seen.timeout.seconds, list(seen.tags)) == (7, 100, ["one"])
    assert seen.retry.multiplier == 3


async def test_delay_and_expiry_count_from_the_tick(schedules: Schedules) -> None:
    await schedules.create(
        task=request(queue=schedules.name, delay=seconds(86_400)), expire_after=seconds(172_800)
    )
    await schedules.set_due(schedules.latest)
    (task,) = await schedules.tasks()
    assert task["state"] == "scheduled"
    assert task["run_at"] == schedules.latest + DAY
    assert task["expire_at"] == schedules.latest + 2 * DAY


async def test_a_task_that_comes_too_late_expires(schedules: Schedules) -> None:
    await schedules.create(expire_after=seconds(3600))
    await schedules.set_due(schedules.latest)

    async def expired() -> bool:
        return [task["state"] for task in await schedules.tasks()] == ["expired"]

    await eventually(expired, "it expires")


async def test_jitter_spreads_and_stays_within(schedules: Schedules) -> None:
    """Ticks twelve hours ago, put off by up to a day: about half of them are still ahead."""
    names = [f"{schedules.name}-{number}" for number in range(30)]
    for name in names:
        await schedules.create(schedule_id=name, jitter=seconds(86_400))
    await schedules.sql.rows(
        "update workerqueue.schedules set next_tick = %s where schedule_id = any (%s)",
        schedules.latest,
        names,
    )
    waits = []
    for name in names:
        schedules.name = name
        await schedules.settled()
        (task,) = await schedules.tasks()
        if task["state"] == "scheduled":
            waits.append(task["run_at"] - schedules.latest)
    assert 1 < len(set(waits)) < len(names)
    assert max(waits) <= DAY


async def test_a_tick_that_is_due_again_makes_no_second_task(schedules: Schedules) -> None:
    await schedules.create(catch_up=ALL)
    start = schedules.latest - 4 * DAY
    for _ in range(3):
        await schedules.set_due(start)
        assert await schedules.ticks() == text(start + n * DAY for n in range(5))
    assert (await schedules.get()).tasks_made == 5


async def test_a_schedule_made_again_under_its_name_is_another_one(schedules: Schedules) -> None:
    tick = schedules.latest
    for count in (1, 2):
        await schedules.create()
        await schedules.set_due(tick)
        assert await schedules.ticks() == text([tick] * count)
        await schedules.delete()
    assert len({task["id"] for task in await schedules.tasks()}) == 2


async def test_the_end_is_the_end(schedules: Schedules) -> None:
    end = schedules.latest - 2 * DAY
    made = await schedules.create(catch_up=ALL, end_at=end)
    assert not made.HasField("next_run_at")
    await schedules.set_due(end - 2 * DAY)
    assert await schedules.ticks() == text([end - 2 * DAY, end - DAY])
    seen = await schedules.get()
    assert not seen.HasField("next_run_at")
    assert list(seen.next_run_times) == []


async def test_the_start_is_the_first_tick(schedules: Schedules) -> None:
    start = schedules.latest + 48 * DAY
    made = await schedules.create(start_at=start)
    assert [time.ToDatetime(UTC) for time in made.next_run_times][:2] == [start, start + DAY]


# Catching up.


async def test_skip_drops_late_ticks(schedules: Schedules) -> None:
    await schedules.create(catch_up=SKIP)
    await schedules.set_due(schedules.latest - 3000 * DAY)
    assert await schedules.ticks() == []
    seen = await schedules.get()
    assert "late" in seen.last_problem
    assert (seen.tasks_made, seen.ticks_skipped) == (0, 0)


async def test_latest_makes_up_for_one(schedules: Schedules) -> None:
    await schedules.create()
    await schedules.set_due(schedules.latest - 3000 * DAY)
    assert await schedules.ticks() == text([schedules.latest])
    seen = await schedules.get()
    assert seen.last_run_at.ToDatetime(UTC) == schedules.latest
    assert seen.last_problem == ""


async def test_all_makes_up_for_the_latest_so_many_oldest_first(
    api: Api, schedules: Schedules
) -> None:
    await schedules.create("* * * * *", catch_up=ALL, catch_up_limit=50)
    async with api.worker(schedules.name, window=1000) as worker:
        await schedules.set_due(await schedules.now() - timedelta(days=400))
        ticks = await schedules.ticks()
        assert 50 <= len(ticks) <= 51
        assert ticks == sorted(set(ticks))
        received = await worker.tasks(len(ticks))
        assert [task.metadata["workerqueue.tick"] for task in received] == ticks


# Overlap.


async def test_allow_lets_tasks_pile_up(schedules: Schedules) -> None:
    await schedules.create(catch_up=ALL, overlap=pb.OVERLAP_POLICY_ALLOW)
    await schedules.set_due(schedules.latest - 2 * DAY)
    assert [task["state"] for task in await schedules.tasks()] == ["available"] * 3


async def test_skip_makes_no_task_while_an_earlier_one_is_live(
    api: Api, schedules: Schedules
) -> None:
    await schedules.create(overlap=pb.OVERLAP_POLICY_SKIP, catch_up=ALL)
    now = schedules.latest
    await schedules.set_due(now - 9 * DAY)
    # The first of them made a task, which was in the way of the others.
    assert await schedules.ticks() == text([now - 9 * DAY])
    assert (await schedules.get()).ticks_skipped == 9

    (leased,) = await api.take(schedules.name)
    await schedules.set_due(now)
    seen = await schedules.get()
    assert leased.task_id in seen.last_problem
    assert seen.ticks_skipped == 10
    # A task that waits for its next attempt is live, too.
    await api.fail(leased.lease_token, retry_after=seconds(3600))
    await schedules.set_due(now)
    assert len(await schedules.tasks()) == 1

    await schedules.admin.cancel(leased.task_id)
    await schedules.set_due(now)
    assert await schedules.ticks() == text([now - 9 * DAY, now])
    assert (await schedules.get()).last_problem == ""


async def test_skip_counts_a_task_that_was_triggered(schedules: Schedules) -> None:
    await schedules.create(overlap=pb.OVERLAP_POLICY_SKIP)
    triggered = (await schedules.trigger()).task.task_id
    await schedules.set_due(schedules.latest)
    assert [task["id"] for task in await schedules.tasks()] == [triggered]


async def test_replace_cancels_the_earlier_tasks_and_tells_their_workers(
    api: Api, schedules: Schedules
) -> None:
    policies: dict[str, Any] = {"overlap": pb.OVERLAP_POLICY_REPLACE, "catch_up": ALL}
    await schedules.create(**policies)
    async with api.worker(schedules.name) as worker:
        await schedules.set_due(schedules.latest - 5 * DAY)
        first = await worker.task()
        # Of several at once only the last is worth making.
        assert await schedules.ticks() == text([schedules.latest])
        triggered = (await schedules.trigger()).task.task_id
        await worker.task()
        await schedules.update(schedules.later_daily, **policies)
        await schedules.set_due(schedules.latest - DAY / 2)
        last = await worker.task()
        reason = await worker.cancellation(first.lease_token)
        assert reason == lease_pb2.CANCELLATION_REASON_CANCELLED
    states = {task["id"]: task["state"] for task in await schedules.tasks()}
    assert states == {first.task_id: "cancelled", triggered: "cancelled", last.task_id: "leased"}
    assert "tick" in (await schedules.admin.get(first.task_id)).last_error.message


# Pause, resume, trigger, delete.


async def test_a_pause_stops_the_ticks_and_what_it_hid_is_not_made_up_for(
    schedules: Schedules,
) -> None:
    await schedules.create("* * * * * *", catch_up=ALL)
    await eventually(schedules.tasks, "it ticks")
    paused = await schedules.pause()
    assert paused.paused
    assert not paused.HasField("next_run_at")
    made = await schedules.ticks()
    begun = await schedules.now()

    async def later() -> bool:
        return await schedules.now() > begun + timedelta(seconds=3)

    await eventually(later, "three seconds pass")
    assert await schedules.ticks() == made
    await schedules.resume()
    resumed = await schedules.now()

    async def ticks_again() -> bool:
        return len(await schedules.ticks()) > len(made)

    await eventually(ticks_again, "it ticks again")
    ticks = [datetime.fromisoformat(tick) for tick in await schedules.ticks()]
    assert ticks[len(made)] > resumed - timedelta(seconds=1)


async def test_pausing_and_resuming_twice_is_harmless(schedules: Schedules) -> None:
    await schedules.create()
    put_off = schedules.latest + 3 * DAY
    await schedules.set_due(put_off)
    resumed = await schedules.resume()
    assert resumed.next_run_at.ToDatetime(UTC) == put_off
    assert (await schedules.pause()) == (await schedules.pause())


async def test_a_trigger_makes_the_task_now(api: Api, schedules: Schedules) -> None:
    await schedules.create(paused=True, task=request(queue=schedules.name, priority=3))
    enqueued = await schedules.trigger()
    assert enqueued.outcome == worker_queue_pb2.ENQUEUE_OUTCOME_CREATED
    assert enqueued.task.priority == 3
    assert enqueued.task.metadata["workerqueue.schedule"] == schedules.name
    (leased,) = await api.take(schedules.name)
    assert leased.task_id == enqueued.task.task_id
    seen = await schedules.get()
    assert (seen.last_task_id, seen.tasks_made) == (leased.task_id, 1)
    assert not seen.HasField("last_run_at")


async def test_a_trigger_is_safe_to_repeat(schedules: Schedules) -> None:
    await schedules.create()
    task_id = "019f0000-0000-7000-8000-0000000abcde"
    first = await schedules.trigger(task_id)
    second = await schedules.trigger(task_id)
    assert first.task.task_id == second.task.task_id == task_id
    assert second.outcome == worker_queue_pb2.ENQUEUE_OUTCOME_ALREADY_EXISTED
    assert len(await schedules.tasks()) == 1
    assert (await schedules.get()).tasks_made == 1
    assert list((await refused(schedules.trigger("x"))).fields) == ["task_id"]


async def test_deleting_leaves_the_tasks(schedules: Schedules) -> None:
    await schedules.create()
    await schedules.set_due(schedules.latest)
    await schedules.delete()
    assert [task["state"] for task in await schedules.tasks()] == ["available"]
    assert (await refused(schedules.get())).code is grpc.StatusCode.NOT_FOUND


# Keys.


async def test_a_job_key_decides_what_a_tick_does(api: Api, schedules: Schedules) -> None:
    key = f"key of {schedules.name}"
    task = request(queue=schedules.name, job_key=key)
    await schedules.create(task=task, catch_up=ALL)
    now = schedules.latest
    await schedules.set_due(now - 2 * DAY)
    # Each tick replaced what waited.
    (only,) = await schedules.tasks()
    assert only["tick"] == text([now])[0]
    seen = await schedules.get()
    assert (seen.tasks_made, seen.last_task_id) == (3, only["id"])

    task.options.job_key_mode = policy_pb2.JOB_KEY_MODE_UNSAFE_DEDUPE
    await schedules.update(schedules.later_daily, task=task)
    await schedules.set_due(now)
    assert len(await schedules.tasks()) == 1
    assert only["id"] in (await schedules.get()).last_problem


async def test_a_tick_waits_for_an_open_transaction_that_has_its_key(
    api: Api, schedules: Schedules, queue: str, server_database: Database
) -> None:
    key = f"key of {queue}"
    await schedules.create(task=request(queue=queue, job_key=key))
    holder = (await api.enqueue(queue=queue, job_key=key)).task_id
    other = Schedules(schedules.admin, schedules.sql, f"{queue}-other", schedules.latest + DAY / 2)
    await other.create()
    async with await AsyncConnection.connect(server_database.dsn) as connection:
        await connection.execute("select from workerqueue.tasks where id = %s for update", [holder])
        await schedules.set_due(schedules.latest, wait=False)

        async def told() -> bool:
            return "open transaction" in (await schedules.get()).last_problem

        await eventually(told, "it says why it waits")
        # It is in nobody's way.
        await other.set_due(schedules.latest)
        assert await other.ticks() == text([schedules.latest])
        assert await schedules.tasks() == []
        await connection.rollback()
    await schedules.settled()
    assert [task["id"] for task in await schedules.tasks()] == [holder]
    seen = await schedules.get()
    assert (seen.last_problem, seen.tasks_made, seen.ticks_skipped) == ("", 1, 0)


async def test_uniqueness_holds_for_ticks(schedules: Schedules) -> None:
    task = request(queue=schedules.name)
    task.options.unique.by_queue = True
    task.options.unique.on_conflict = worker_queue_pb2.UNIQUE_CONFLICT_FAIL
    await schedules.create(task=task, catch_up=ALL)
    now = schedules.latest
    await schedules.set_due(now - 2 * DAY)
    (only,) = await schedules.tasks()
    seen = await schedules.get()
    assert (seen.tasks_made, seen.ticks_skipped) == (1, 2)
    assert only["id"] in seen.last_problem


# What goes wrong.


async def test_a_schedule_that_went_bad_says_so_and_stops_no_other(
    schedules: Schedules, admin: Admin, server: ServerProcess
) -> None:
    """A contract that has become stricter: the stored payload is refused at the tick."""
    server.tolerated = "a tick makes no task"
    good = Schedules(admin, schedules.sql, f"{schedules.name}-good", schedules.latest + DAY / 2)
    await good.create()
    await schedules.create(catch_up=ALL)
    bad = schedules.definition(catch_up=ALL, task=dynamic("runFinished", {}))
    now = schedules.latest
    await schedules.sql.rows(
        "update workerqueue.schedules set definition = %s where schedule_id = %s",
        bad.SerializeToString(),
        schedules.name,
    )
    await schedules.sql.rows(
        "update workerqueue.schedules set next_tick = %s where schedule_id like %s",
        now - DAY,
        f"{schedules.name}%",
    )
    await schedules.settled()
    await good.settled()
    assert await good.ticks() == text([now])
    seen = await schedules.get()
    assert "args.id" in seen.last_problem
    assert (seen.tasks_made, seen.ticks_skipped) == (0, 2)
    assert seen.next_run_at.ToDatetime(UTC) == now + DAY


async def test_a_schedule_of_an_unknown_kind_waits_for_a_server_that_knows_it(
    schedules: Schedules,
) -> None:
    await schedules.create()
    other = Schedules(
        schedules.admin, schedules.sql, f"{schedules.name}-other", schedules.latest + DAY / 2
    )
    await other.create()
    now = schedules.latest
    await schedules.sql.rows(
        "update workerqueue.schedules set kind = 'gone', next_tick = %s where schedule_id = %s",
        now,
        schedules.name,
    )
    await other.set_due(now)
    seen = await schedules.get()
    assert "'gone'" in seen.last_problem
    assert seen.next_run_at.ToDatetime(UTC) == now
    assert await schedules.tasks() == []
    await schedules.sql.rows(
        "update workerqueue.schedules set kind = 'runFinished' where schedule_id = %s",
        schedules.name,
    )
    await schedules.settled()
    assert await schedules.ticks() == text([now])
