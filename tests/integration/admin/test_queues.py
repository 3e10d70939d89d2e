"""What an operator sees of queues and does with them."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from tests.integration.admin.toolkit import Admin
from tests.postgres import Database
from tests.servers import ServerProcess
from tests.sql import Inspector
from tests.toolkit import Api, connected, refused, request, seconds
from workerqueue.v1 import queue_admin_pb2

NAMELESS = ["", "with space", "q" * 129, "nul\x00"]


async def test_a_queue_shows_what_it_holds(api: Api, admin: Admin, queue: str) -> None:
    await api.ids([request(queue=queue) for _ in range(5)])
    await api.ids([request(queue=queue, delay=seconds(3600)) for _ in range(2)])
    await api.ids([request(queue=queue, concurrency_key=queue) for _ in range(3)])
    assert await admin.depths(queue) == {"available": 6, "scheduled": 2, "blocked": 2}

    first, second, third, *_ = await api.take(queue, 3)
    await api.ack(first.lease_token)
    await api.fail(second.lease_token, retry_after=seconds(3600))
    await api.fail(third.lease_token, permanent=True)
    found = await admin.queue(queue)
    assert dict(found.statistics.tasks_by_state) == {
        "available": 3, "scheduled": 2, "blocked": 2, "succeeded": 1, "retrying": 1, "dead": 1,
    }  # fmt: skip
    assert found.statistics.HasField("oldest_available_age")
    assert [kind.kind for kind in found.statistics.kinds] == ["runFinished"]
    assert found.statistics.kinds[0].tasks_by_state == found.statistics.tasks_by_state
    rates = found.statistics.last_minute
    assert rates.succeeded == rates.retried == rates.died > 0
    assert rates.started == pytest.approx(3 * rates.succeeded)
    assert rates.enqueued == pytest.approx(10 * rates.succeeded)
    assert rates.dropped == 0


async def test_folding_changes_no_figure(
    api: Api, admin: Admin, sql: Inspector, queue: str
) -> None:
    await api.ids([request(queue=queue) for _ in range(5)])
    for leased in await api.take(queue, 3):
        await api.ack(leased.lease_token)
    before = await admin.queue(queue)
    await sql.fold_flows()
    after = await admin.queue(queue)
    assert dict(after.statistics.tasks_by_state) == dict(before.statistics.tasks_by_state)
    assert after.statistics.last_minute.enqueued > 0


async def test_queues_are_listed_by_name_in_pages(api: Api, admin: Admin, queue: str) -> None:
    names = [f"{queue}-{letter}" for letter in "abcde"]
    await api.ids([request(queue=name) for name in reversed(names)])
    listed: list[str] = []
    token = ""
    while True:
        page = await admin.stub.ListQueues(
            queue_admin_pb2.ListQueuesRequest(page_size=2, page_token=token)
        )
        assert len(page.queues) <= 2
        listed += [found.name for found in page.queues]
        token = page.next_page_token
        if not token:
            break
    assert listed == sorted(listed)
    assert set(names) <= set(listed)
    assert {"executions", "default"} <= set(listed)


async def test_declared_limits_are_shown_changed_and_restored(admin: Admin) -> None:
    found = await admin.queue("executions")
    assert (found.max_in_flight_per_worker, found.max_in_flight) == (10, 0)
    assert not found.operator_limits
    changed = await admin.update_queue("executions", max_in_flight=7)
    assert (changed.max_in_flight_per_worker, changed.max_in_flight) == (10, 7)
    assert changed.operator_limits
    removed = await admin.update_queue("executions", max_in_flight_per_worker=0)
    assert (removed.max_in_flight_per_worker, removed.max_in_flight) == (0, 7)
    restored = await admin.update_queue("executions", reset_to_declaration=True)
    assert (restored.max_in_flight_per_worker, restored.max_in_flight) == (10, 0)
    assert not restored.operator_limits


async def test_an_operators_limits_outlive_a_restart(
    admin: Admin, server_database: Database
) -> None:
    await admin.update_queue("task-operations", max_in_flight_per_worker=2)
    with ServerProcess(server_database.dsn) as another:
        async with connected(another.address) as api:
            admin = Admin(api)
            found = await admin.queue("task-operations")
            assert (found.max_in_flight_per_worker, found.operator_limits) == (2, True)
            await admin.update_queue("task-operations", reset_to_declaration=True)


async def test_a_new_limit_counts_what_runs_already(api: Api, admin: Admin, queue: str) -> None:
    await api.ids([request(queue=queue) for _ in range(10)])
    async with api.worker(queue, window=4) as worker:
        running = await worker.tasks(4)
        await admin.update_queue(queue, max_in_flight=5)
        await worker.send(max_in_flight=100)
        (fifth,) = await worker.tasks(1)
        await worker.acked(running[0].lease_token, fifth.lease_token)
        more = await worker.tasks(2)
        assert worker.untaken == []
        await admin.update_queue(queue, max_in_flight=0)
        await worker.tasks(3)
        assert len(more) == 2


async def test_a_pause_holds_at_once_and_a_resume_goes_on_at_once(
    api: Api, admin: Admin, queue: str
) -> None:
    await api.enqueue(queue=queue)
    async with api.worker(queue) as worker:
        await worker.task()
        paused = await admin.stub.PauseQueue(queue_admin_pb2.PauseQueueRequest(queue=queue))
        assert paused.queue.paused
        waiting = await api.ids([request(queue=queue) for _ in range(3)])
        assert await api.take(queue) == []
        assert worker.untaken == []
        resumed = await admin.stub.ResumeQueue(queue_admin_pb2.ResumeQueueRequest(queue=queue))
        assert not resumed.queue.paused
        assert [task.task_id for task in await worker.tasks(3)] == waiting


async def test_no_lease_is_granted_after_a_pause_returned(
    api: Api, admin: Admin, sql: Inspector, queue: str
) -> None:
    """Pauses while many streams take tasks as fast as they can; the database's clock decides."""
    await api.ids([request(queue=queue) for _ in range(3000)])

    async def work() -> None:
        async with api.worker(queue, window=20) as worker:
            for _ in range(100):
                leased = await worker.task()
                await worker.ack(leased.lease_token)
                if paused.is_set():
                    return

    paused = asyncio.Event()
    workers = [asyncio.create_task(work()) for _ in range(4)]
    for _ in range(5):
        await asyncio.sleep(0.05)
        await admin.stub.PauseQueue(queue_admin_pb2.PauseQueueRequest(queue=queue))
        at = await sql.value("select clock_timestamp()")
        await asyncio.sleep(0.05)
        late = await sql.value(
            """
            select count(*) from (
              select started_at, lane_id from workerqueue.tasks where state = 'leased'
              union all select started_at, lane_id from workerqueue.history) t
              join workerqueue.lanes l using (lane_id)
             where l.queue = %s and t.started_at > %s
            """,
            queue,
            at,
        )
        assert late == 0
        await admin.stub.ResumeQueue(queue_admin_pb2.ResumeQueueRequest(queue=queue))
    paused.set()
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)


async def test_a_purge_removes_what_waits_and_nothing_else(
    api: Api, admin: Admin, queue: str
) -> None:
    await api.ids([request(queue=queue) for _ in range(4)])
    done, failed, running = await api.take(queue, 3)
    await api.ack(done.lease_token)
    await api.fail(failed.lease_token, retry_after=seconds(3600))
    await api.ids([request(queue=queue, delay=seconds(3600)) for _ in range(2)])
    other = await api.enqueue(queue=f"{queue}-other")
    purge = queue_admin_pb2.PurgeQueueRequest(queue=queue, dry_run=True)
    assert (await admin.bulk(admin.stub.PurgeQueue(purge))).matched == 4
    assert (await admin.depths(queue))["available"] == 1
    purge.dry_run = False
    assert (await admin.bulk(admin.stub.PurgeQueue(purge))).changed == 4
    assert await admin.depths(queue) == {"leased": 1, "succeeded": 1}
    await api.ack(running.lease_token)
    assert await admin.ids(queues=[other.queue]) == [other.task_id]


@pytest.mark.parametrize("call", ["GetQueue", "PauseQueue", "ResumeQueue", "UpdateQueue"])
async def test_an_unknown_queue_is_refused(admin: Admin, queue: str, call: str) -> None:
    message = getattr(queue_admin_pb2, f"{call}Request")
    fields = {"max_in_flight": 1} if call == "UpdateQueue" else {}
    problem = await refused(getattr(admin.stub, call)(message(queue=queue, **fields)))
    assert (problem.code, problem.reason) == (grpc.StatusCode.NOT_FOUND, "QUEUE_NOT_FOUND")
    assert problem.metadata == {"queue": queue}
    for name in NAMELESS:
        wrong = await refused(getattr(admin.stub, call)(message(queue=name, **fields)))
        assert (wrong.code, set(wrong.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, {"queue"})


async def test_a_queue_can_be_limited_before_its_first_task(
    api: Api, admin: Admin, queue: str
) -> None:
    made = await admin.update_queue(queue, max_in_flight=1, allow_missing=True)
    assert (made.name, made.max_in_flight) == (queue, 1)
    await api.ids([request(queue=queue) for _ in range(2)])
    assert len(await api.take(queue)) == 1


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({}, "max_in_flight"),
        ({"max_in_flight": -1}, "max_in_flight"),
        ({"max_in_flight_per_worker": 100_001}, "max_in_flight_per_worker"),
        ({"max_in_flight": 1, "reset_to_declaration": True}, "max_in_flight"),
    ],
)
async def test_a_wrong_limit_is_refused(admin: Admin, fields: dict[str, int], wrong: str) -> None:
    update = queue_admin_pb2.UpdateQueueRequest(queue="default", **fields)  # type: ignore[arg-type]
    problem = await refused(admin.stub.UpdateQueue(update))
    assert (problem.code, set(problem.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, {wrong})


async def test_a_foreign_page_token_is_refused(admin: Admin) -> None:
    tasks = await admin.page(size=1)
    for token in ("x", "AAAA", "%%%", tasks.next_page_token or "AQ"):
        problem = await refused(
            admin.stub.ListQueues(queue_admin_pb2.ListQueuesRequest(page_token=token))
        )
        assert set(problem.fields) == {"page_token"}
