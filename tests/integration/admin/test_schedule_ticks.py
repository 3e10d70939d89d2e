"""What ticks make, also late ones, overlapping ones and ones that cannot."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import AsyncConnection

from tests.integration.admin.schedules import DAY, Schedules, text
from tests.integration.admin.toolkit import Admin
from tests.postgres import Database
from tests.servers import ServerProcess
from tests.toolkit import Api, dynamic, eventually, request, seconds
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import lease_pb2, policy_pb2, worker_queue_pb2
from workerqueue.v1 import schedule_pb2 as pb

SKIP, ALL = pb.CATCH_UP_POLICY_SKIP, pb.CATCH_UP_POLICY_ALL


# Ticks.


async def test_ticks_come_by_themselves(api: Api, schedules: Schedules) -> None:
    # A server that is late for a second makes its tick all the same.
    await schedules.create("* * * * * *", catch_up=ALL)
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
