"""The main job once over, on every PostgreSQL major: each hot function runs at least once there."""

from __future__ import annotations

import pytest

from tests.sql import Inspector
from tests.toolkit import Api, eventually, packed, request, seconds
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import worker_queue_pb2

pytestmark = pytest.mark.all_postgres


async def test_a_task_travels_there_and_back(api: Api, queue: str, sql: Inspector) -> None:
    async with api.worker(queue) as worker:
        task = await api.enqueue(queue=queue, metadata={"a": "b"}, tags=["t"])
        leased = await worker.task()
        assert leased.task_id == task.task_id
        checkpoint = packed(tasks_pb2.RunFinished(id="c"))
        await api.heartbeat(leased.lease_token, progress={"fraction": 0.5}, checkpoint=checkpoint)
        await worker.fail(leased.lease_token, retry_after=seconds(0.05), error={"type": "E"})
        again = await worker.task()
        assert (again.attempt, again.checkpoint) == (2, checkpoint)
        await api.ack(again.lease_token, tasks_pb2.RunFinished(id="result"))
    repeat = await api.send(request(task_id=task.task_id))
    assert repeat.outcome == worker_queue_pb2.ENQUEUE_OUTCOME_ALREADY_EXISTED
    assert repeat.task.result == packed(tasks_pb2.RunFinished(id="result"))
    assert [a["outcome"] for a in await sql.attempts(task.task_id)] == ["failed"]


async def test_batches_priorities_and_several_queues(api: Api, queue: str) -> None:
    items = [request(queue=f"{queue}-{n % 2}", priority=n % 5) for n in range(1_000)]
    ids = await api.ids(items)
    async with api.worker([f"{queue}-0", f"{queue}-1"], window=1_000) as worker:
        tasks = await worker.tasks(1_000)
        assert {task.task_id for task in tasks} == set(ids)
        await worker.acked(*(task.lease_token for task in tasks))
    assert {r.outcome for r in await api.batch([request(task_id=i) for i in ids[:50]])} == {
        worker_queue_pb2.ENQUEUE_OUTCOME_ALREADY_EXISTED
    }


async def test_keys_and_limits(api: Api, queue: str, sql: Inspector) -> None:
    await sql.limit_queue(queue, total=3, per_worker=2)
    ids = await api.ids(
        [
            request(queue=queue, concurrency_key=f"{queue}-{n % 4}", priority=n % 3)
            for n in range(40)
        ]
    )
    async with (
        api.worker(queue, worker_id="one") as one,
        api.worker(queue, worker_id="two") as two,
    ):

        async def round_is_done() -> bool:
            for stream in (one, two):
                held = list(stream.untaken)
                assert len(held) <= 2
                await stream.tasks(len(held))
                await stream.acked(*(task.lease_token for task in held))
            assert (await sql.states(ids)).get("leased", 0) <= 3
            return await sql.states(ids) == {"succeeded": 40}

        await eventually(round_is_done, "all are finished")


async def test_every_clock(api: Api, queue: str, sql: Inspector) -> None:
    lost = await api.enqueue(
        queue=queue, lease_duration=seconds(1), max_attempts=1, concurrency_key=queue
    )
    slow = await api.enqueue(queue=queue, timeout=seconds(0.5), max_attempts=1)
    assert len(await api.take(queue)) == 2
    behind = await api.enqueue(queue=queue, concurrency_key=queue)
    due = await api.enqueue(queue=queue, delay=seconds(0.3))
    expired = await api.enqueue(queue=queue, delay=seconds(60), expire_at={"seconds": 1})
    async with api.worker(queue) as worker:
        got = {task.task_id for task in await worker.tasks(2)}
    assert got == {behind.task_id, due.task_id}

    async def ended() -> bool:
        return await sql.states([lost.task_id, slow.task_id, expired.task_id]) == {
            "dead": 2,
            "expired": 1,
        }

    await eventually(ended, "the clocks have done their work")
    outcomes = [(await sql.attempts(t.task_id))[0]["outcome"] for t in (lost, slow)]
    assert outcomes == ["lost", "timed_out"]


async def test_release_and_snooze(api: Api, queue: str, sql: Inspector) -> None:
    ids = await api.ids([request(queue=queue) for _ in range(3)])
    one, two, three = await api.take(queue)
    await api.release(one.lease_token)
    await api.snooze(two.lease_token, 3600)
    await api.fail(three.lease_token, permanent=True)
    assert await sql.states(ids) == {"available": 1, "scheduled": 1, "dead": 1}
    assert [task.task_id for task in await api.take(queue)] == [ids[0]]


async def test_partitions_are_made_ahead_and_dropped_behind(sql: Inspector) -> None:
    await sql.rows(
        "create table workerqueue.history_20200101 partition of workerqueue.history"
        " for values from ('2020-01-01+00') to ('2020-01-02+00')"
    )
    name = await sql.value("select dropped from workerqueue.drop_expired_partition(31)")
    assert name == "history_20200101"
    assert await sql.value("select dropped from workerqueue.drop_expired_partition(31)") is None
    ahead = await sql.value(
        "select count(*)::integer from pg_inherits"
        " where inhparent = 'workerqueue.history'::regclass"
    )
    assert ahead >= 31
    assert await sql.value("select workerqueue.create_partitions(32)") == 0
