"""The database goes away and comes back; servers and workers stay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from psycopg import AsyncConnection

from tests.postgres import PostgresCluster
from tests.servers import ServerProcess
from tests.sql import Inspector
from tests.toolkit import Api, Refusal, connected, eventually, refusal, refused, request, seconds
from workerqueue.v1 import lease_pb2

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def outage_server(own_postgres: PostgresCluster) -> Iterator[ServerProcess]:
    database = own_postgres.create_database()
    with ServerProcess(database.tcp_dsn) as server:
        yield server


@pytest.fixture
async def api(outage_server: ServerProcess) -> AsyncIterator[Api]:
    async with connected(outage_server.address) as api:
        yield api


async def sql_of(cluster: PostgresCluster) -> Inspector:
    return Inspector(await AsyncConnection.connect(cluster.dsn("test_1"), autocommit=True))


async def health_becomes(api: Api, status: int) -> None:
    """Follows the health service's Watch, as load balancers do."""
    stub: Any = health_pb2_grpc.HealthStub(api.channel)
    async for answer in stub.Watch(health_pb2.HealthCheckRequest(), timeout=120):
        if answer.status == status:
            return
    raise AssertionError("the watch ended")


def cpu_seconds(server: ServerProcess) -> float:
    times = psutil.Process(server.pid).cpu_times()
    return float(times.user + times.system)


@pytest.mark.parametrize("mode", ["fast", "immediate", "kill"])
async def test_an_outage_refuses_enqueues_and_loses_nothing(
    api: Api, own_postgres: PostgresCluster, outage_server: ServerProcess, queue: str, mode: str
) -> None:
    ids = await api.ids([request(queue=queue, lease_duration=seconds(120)) for _ in range(6)])
    async with api.worker(queue, window=3) as worker:
        held = await worker.tasks(3)
        if mode == "kill":
            own_postgres.kill()
        else:
            own_postgres.stop("fast" if mode == "fast" else "immediate")
        await health_becomes(api, _NOT_SERVING)
        problem = await refused(api.enqueue(queue=queue))
        assert (problem.code, problem.reason) == (
            grpc.StatusCode.UNAVAILABLE,
            "DATABASE_UNAVAILABLE",
        )
        assert problem.retry_seconds is not None
        assert 0 < problem.retry_seconds <= 60
        # An ack in the outage is refused as an item, and the stream stays.
        await worker.ack(held[0].lease_token)
        answer = await worker.result(held[0].lease_token)
        assert answer is not None
        assert answer.code == grpc.StatusCode.UNAVAILABLE
        assert (await refused(api.ack(held[0].lease_token))).code == grpc.StatusCode.UNAVAILABLE
        own_postgres.start()
        await health_becomes(api, _SERVING)
        assert not worker.ended
        assert worker.cancellations == []
        await worker.acked(*(task.lease_token for task in held))
        await worker.acked(*(task.lease_token for task in await worker.tasks(3)))
        last = await api.enqueue(queue=queue)
        assert (await worker.task()).task_id == last.task_id
    sql = await sql_of(own_postgres)
    assert await sql.states(ids) == {"succeeded": 6}
    assert await sql.value("select max(attempt)::integer from workerqueue.history") == 1
    await sql.connection.close()


async def test_nothing_spins_while_the_database_is_away(
    api: Api, own_postgres: PostgresCluster, outage_server: ServerProcess, queue: str
) -> None:
    async with api.worker(queue, window=3):
        own_postgres.stop("immediate")
        await health_becomes(api, _NOT_SERVING)
        before, logged = cpu_seconds(outage_server), len(outage_server.log().splitlines())
        # Time itself is what this is about: what does the server do while it can do nothing?
        await asyncio.sleep(3)
        assert cpu_seconds(outage_server) - before < 1.5
        assert len(outage_server.log().splitlines()) - logged < 200
        own_postgres.start()
        await health_becomes(api, _SERVING)


async def test_a_frozen_database_is_noticed_and_the_server_recovers(
    api: Api, own_postgres: PostgresCluster, queue: str
) -> None:
    task = await api.enqueue(queue=queue, lease_duration=seconds(300), timeout=seconds(600))
    async with api.worker(queue) as worker:
        held = await worker.task()
        own_postgres.freeze()
        await health_becomes(api, _NOT_SERVING)
        own_postgres.thaw()
        await health_becomes(api, _SERVING)
        await worker.acked(held.lease_token)
        await api.enqueue(queue=queue)
        await worker.task()
    assert held.task_id == task.task_id


async def test_due_tasks_and_lost_leases_wait_for_the_database_and_no_longer(
    api: Api, own_postgres: PostgresCluster, queue: str
) -> None:
    lost = await api.enqueue(
        queue=queue,
        lease_duration=seconds(2),
        retry={"initial_backoff": seconds(0.001), "max_backoff": seconds(0.001)},
    )
    due = await api.enqueue(queue=queue, delay=seconds(2))
    assert len(await api.take(queue)) == 1
    # What this worker takes is not lost in its turn, even if that is before the database stops.
    async with api.worker(queue, lease_duration=60) as worker:
        own_postgres.stop("fast")
        await health_becomes(api, _NOT_SERVING)
        own_postgres.start()
        got = await worker.tasks(2)
        assert {(task.task_id, task.attempt) for task in got} == {
            (lost.task_id, 2),
            (due.task_id, 1),
        }


async def test_hints_between_servers_work_again_after_an_outage(
    own_postgres: PostgresCluster, outage_server: ServerProcess, api: Api, queue: str
) -> None:
    with ServerProcess(own_postgres.tcp_dsn("test_1"), name="second server") as second:
        async with connected(second.address) as other, other.worker(queue) as worker:
            own_postgres.stop("fast")
            await health_becomes(api, _NOT_SERVING)
            await health_becomes(other, _NOT_SERVING)
            own_postgres.start()
            await health_becomes(api, _SERVING)
            await health_becomes(other, _SERVING)
            for _ in range(3):
                task = await api.enqueue(queue=queue)
                got = await worker.task()
                assert got.task_id == task.task_id
                await worker.acked(got.lease_token)


async def test_a_server_that_starts_without_its_database_says_so(
    own_postgres: PostgresCluster,
) -> None:
    own_postgres.stop("fast")
    server = ServerProcess(own_postgres.tcp_dsn("postgres"))
    server.launch()
    assert await asyncio.to_thread(server.wait) == 3
    assert "cannot start" in server.log()
    assert "Traceback" not in server.log()


async def test_a_connection_that_postgres_ends_is_replaced_without_a_refusal_later(
    api: Api, own_postgres: PostgresCluster, queue: str
) -> None:
    await api.enqueue(queue=queue)
    async with api.worker(queue) as worker:
        await worker.acked((await worker.task()).lease_token)
        sql = await sql_of(own_postgres)
        ended = await sql.value(
            "select count(pg_terminate_backend(pid))::integer from pg_stat_activity"
            " where application_name like 'workerqueue%%'"
        )
        assert ended > 3
        await sql.connection.close()

        async def enqueue() -> bool:
            try:
                await api.enqueue(queue=queue)
            except grpc.aio.AioRpcError as error:
                problems.append(refusal(error))
                return False
            return True

        problems: list[Refusal] = []
        await eventually(enqueue, "enqueues are taken again")
        assert all(problem.retry_seconds is not None for problem in problems)
        task = await worker.task()

        async def ack() -> bool:
            await worker.send(acks=[lease_pb2.AckRequest(lease_token=task.lease_token)])
            return await worker.result(task.lease_token) is None

        await eventually(ack, "acks are taken again")
        assert not worker.ended
