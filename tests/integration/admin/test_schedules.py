"""What an operator does with schedules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from tests.integration.admin.schedules import DAY, Schedules
from tests.toolkit import Api, dynamic, eventually, refused, request, seconds
from workerqueue.v1 import schedule_pb2 as pb
from workerqueue.v1 import worker_queue_pb2

SKIP, ALL = pb.CATCH_UP_POLICY_SKIP, pb.CATCH_UP_POLICY_ALL


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
