"""Queue limits: for one worker, and over all workers and servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.postgres import Database
from tests.servers import ServerProcess
from tests.sql import Inspector
from tests.toolkit import (
    HEARTBEAT,
    Api,
    WorkerStream,
    connected,
    eventually,
    request,
    seconds,
)
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import lease_pb2


@pytest.fixture(scope="module")
def second_server(server: ServerProcess, server_database: Database) -> Iterator[ServerProcess]:
    """Another server on the same database."""
    with ServerProcess(server_database.dsn, name="second server") as process:
        yield process


@pytest.fixture
async def other(second_server: ServerProcess) -> AsyncIterator[Api]:
    async with connected(second_server.address) as api:
        yield api


async def leased(sql: Inspector, ids: list[str]) -> int:
    return (await sql.states(ids)).get("leased", 0)


async def test_the_contracts_limit_holds_for_one_worker_id_over_streams_and_servers(
    api: Api, other: Api, sql: Inspector
) -> None:
    """`executions` lets one worker hold ten."""
    ids = await api.ids([request(tasks_pb2.StartRun(id=str(n))) for n in range(30)])
    streams = [WorkerStream(api), WorkerStream(api), WorkerStream(other)]
    try:
        for stream in streams:
            await stream.open("executions", window=30, worker_id="the-one")

        def received() -> int:
            return sum(len(stream.received) for stream in streams)

        await eventually(lambda: received() >= 10, "the worker fills its limit")
        async with other.worker("executions", window=30) as second_worker:
            # A second worker gets its own ten, although the first stands in line before it.
            await second_worker.tasks(10)
            assert received() == 10
            assert await leased(sql, ids) == 20
            # An answer makes room for one on any stream of the worker.
            stream = next(stream for stream in streams if stream.received)
            await api.ack(stream.received[0].lease_token)
            await eventually(lambda: received() == 11, "room for one more")
            assert await leased(sql, ids) == 20
    finally:
        for stream in streams:
            await stream.cut()


async def test_a_limited_queue_does_not_hold_up_the_others_of_a_subscription(
    api: Api, queue: str
) -> None:
    limited = "run-executions"
    await api.ids([request(tasks_pb2.PerformRunExecution(id=f"{queue}-{n}")) for n in range(20)])
    async with api.worker([limited, queue], window=50) as worker:
        got = await worker.tasks(8)
        assert {task.queue for task in got} == {limited}
        await api.ids([request(queue=queue) for _ in range(20)])
        assert {task.queue for task in await worker.tasks(20)} == {queue}
        assert worker.untaken == []


async def test_the_global_limit_holds_over_workers_and_servers(
    api: Api, other: Api, queue: str, sql: Inspector
) -> None:
    await sql.limit_queue(queue, total=3, per_worker=None)
    ids = await api.ids([request(queue=queue) for _ in range(60)])
    running: list[str] = []
    counts: list[int] = []

    async def work(stream: WorkerStream) -> None:
        while True:
            task = await stream.task()
            running.append(task.task_id)
            counts.append(len(running))
            # Every snapshot of the database must agree, whoever else commits meanwhile.
            counts.append(await leased(sql, ids))
            running.remove(task.task_id)
            await stream.ack(task.lease_token)

    async with (
        asyncio.TaskGroup() as group,
        api.worker(queue, window=10) as one,
        api.worker(queue, window=10) as two,
        other.worker(queue, window=10) as three,
    ):
        workers = [group.create_task(work(stream)) for stream in (one, two, three)]
        await eventually(lambda: _succeeded(sql, ids), "all are finished", 120)
        for worker in workers:
            worker.cancel()
    assert max(counts) == 3


async def _succeeded(sql: Inspector, ids: list[str]) -> bool:
    return (await sql.states(ids)) == {"succeeded": len(ids)}


async def test_both_limits_at_once(api: Api, other: Api, queue: str, sql: Inspector) -> None:
    await sql.limit_queue(queue, total=5, per_worker=2)
    ids = await api.ids([request(queue=queue) for _ in range(20)])
    async with (
        api.worker(queue, window=10) as one,
        api.worker(queue, window=10) as two,
        other.worker(queue, window=10) as three,
    ):
        streams = (one, two, three)
        await eventually(lambda: sum(len(s.received) for s in streams) == 5, "the queue is full")
        assert max(len(stream.received) for stream in streams) <= 2
        first = next(stream for stream in streams if len(stream.received) == 2)
        await first.acked(first.received[0].lease_token)
        await eventually(lambda: sum(len(s.received) for s in streams) == 6, "room for one")
        assert await leased(sql, ids) == 5


@pytest.mark.parametrize("end", ["ack", "fail", "release", "snooze", "timeout"])
async def test_whatever_ends_a_lease_frees_its_place_on_every_server(
    api: Api, other: Api, queue: str, sql: Inspector, end: str
) -> None:
    await sql.limit_queue(queue, total=1, per_worker=None)
    timeout = seconds(2 if end == "timeout" else 60)
    first, second = await api.ids(
        [
            request(queue=queue, timeout=timeout, priority=1, max_attempts=1),
            request(queue=queue),
        ]
    )
    async with api.worker(queue, window=1) as here:
        task = await here.task()
        assert task.task_id == first
        async with other.worker(queue, window=1) as there:
            if end == "ack":
                await here.acked(task.lease_token)
                got = await eventually(
                    lambda: here.untaken or there.untaken, "the place is taken again"
                )
                assert got[0].task_id == second
                return
            await _takes_no_more(here, task.lease_token)
            if end == "fail":
                await here.fail(task.lease_token, permanent=True)
            elif end == "snooze":
                await api.snooze(task.lease_token, 3600)
            elif end == "release":
                await api.release(task.lease_token)
                again = await there.task()
                assert (again.task_id, again.attempt) == (first, 1)
                await there.acked(again.lease_token)
            assert (await there.task()).task_id == second


async def _takes_no_more(worker: WorkerStream, held: bytes) -> None:
    """Closes the window; an answer in the same frame tells that the server knows."""
    await worker.send(max_in_flight=0, heartbeats=[lease_pb2.HeartbeatRequest(lease_token=held)])
    assert await worker.result(held, HEARTBEAT) is None


async def test_a_raised_limit_takes_effect_without_any_other_event(
    api: Api, queue: str, sql: Inspector
) -> None:
    await sql.limit_queue(queue, total=1, per_worker=None)
    await api.ids([request(queue=queue) for _ in range(4)])
    async with api.worker(queue) as worker:
        await worker.task()
        await sql.limit_queue(queue, total=3, per_worker=None)
        await worker.tasks(2)
        assert worker.untaken == []
        await sql.limit_queue(queue, total=None, per_worker=None)
        await worker.task(limit=5)


async def test_a_limit_set_while_tasks_run_counts_those_that_run(
    api: Api, queue: str, sql: Inspector
) -> None:
    ids = await api.ids([request(queue=queue) for _ in range(10)])
    async with api.worker(queue, window=4) as worker:
        held = await worker.tasks(4)
        await sql.limit_queue(queue, total=3, per_worker=None)
        async with api.worker(queue, window=4) as second:
            await worker.acked(held[0].lease_token)
            # Three of the old ones still run: the queue is full.
            assert await api.take(queue) == []
            assert await leased(sql, ids) == 3
            assert second.received == []


async def test_a_paused_queue_gives_nothing_and_resumes(
    api: Api, queue: str, sql: Inspector
) -> None:
    await sql.pause_queue(queue, True)
    await api.ids([request(queue=queue) for _ in range(3)])
    assert await api.take(queue) == []
    async with api.worker(queue) as worker:
        await sql.pause_queue(queue, False)
        held = await worker.tasks(3)
        await sql.pause_queue(queue, True)
        # Leases of a paused queue go on.
        await worker.acked(held[0].lease_token)
        await api.heartbeat(held[1].lease_token)
        await api.enqueue(queue=queue)
        assert await api.take(queue) == []
        assert worker.untaken == []


async def test_one_worker_at_its_limit_does_not_keep_another_from_the_queue(
    api: Api, queue: str, sql: Inspector
) -> None:
    await sql.limit_queue(queue, total=None, per_worker=2)
    await api.ids([request(queue=queue) for _ in range(10)])
    async with api.worker(queue, window=10) as full:
        await full.tasks(2)
        async with api.worker(queue, window=10) as late:
            await late.tasks(2)
        assert full.untaken == []


async def test_a_lower_window_than_the_limit_counts(api: Api, queue: str, sql: Inspector) -> None:
    await sql.limit_queue(queue, total=None, per_worker=5)
    await api.ids([request(queue=queue) for _ in range(10)])
    async with api.worker(queue, window=3) as worker:
        await worker.tasks(3)
        assert worker.untaken == []
        await worker.send(max_in_flight=10)
        await worker.tasks(2)
        assert worker.untaken == []


async def test_a_lease_that_another_worker_brings_along_counts_for_whom_it_was_granted_to(
    api: Api, queue: str, sql: Inspector
) -> None:
    await sql.limit_queue(queue, per_worker=1, total=None)
    await api.ids([request(queue=queue)] * 3)
    (lent,) = await api.take(queue, 1, worker_id="lender", lease_duration=3_000)
    async with (
        api.worker(queue, 0, worker_id="borrower", held_lease_tokens=[lent.lease_token]) as holder,
        api.worker(queue, 2, worker_id="borrower") as borrower,
        api.worker(queue, 2, worker_id="lender") as lender,
    ):
        assert [lease.alive for lease in (await holder.welcome()).held_leases] == [True]
        await borrower.task()
        assert not lender.received
        await holder.acked(lent.lease_token)
        await lender.task()
