"""The Python client as a producer uses it: results, over servers and restarts, and loading."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.postgres import Database
from tests.servers import ServerProcess, servers
from tests.sql import Inspector
from tests.toolkit import Api, connected
from workerqueue import (
    AsyncClient,
    Client,
    EnqueueItem,
    EnqueueOutcome,
    InvalidPayloadError,
    JobKeyMode,
    LoadProgress,
    TaskFailedError,
    TaskNotFoundError,
    Unique,
)
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import task_pb2


def run(name: str = "a") -> tasks_pb2.RunFinished:
    return tasks_pb2.RunFinished(id=name)


@pytest.fixture
async def client(server: ServerProcess) -> AsyncIterator[AsyncClient]:
    """A client of the module's server."""
    async with AsyncClient(server.address) as client:
        yield client


async def test_a_result_is_what_the_worker_returned(
    client: AsyncClient, api: Api, queue: str
) -> None:
    handle = await client.enqueue(run(), queue=queue)
    waiting = asyncio.create_task(handle.result(timeout=60))
    (lease,) = await api.take(queue)
    await api.ack(lease.lease_token, tasks_pb2.StartRun(id="next"))
    assert await waiting == tasks_pb2.StartRun(id="next")
    # Once more, after the end, and with its class.
    typed = await handle.result(timeout=60, message_class=tasks_pb2.StartRun)
    assert typed.id == "next"
    with pytest.raises(TypeError, match=r"is a workerqueue\.tasks\.v1\.StartRun, not"):
        await handle.result(timeout=60, message_class=tasks_pb2.RunFinished)


async def test_no_result_is_none(client: AsyncClient, api: Api, queue: str) -> None:
    handle = await client.enqueue(run(), queue=queue)
    (lease,) = await api.take(queue)
    await api.ack(lease.lease_token)
    assert await handle.result(timeout=60) is None


async def test_a_dead_task_raises_its_last_error(client: AsyncClient, api: Api, queue: str) -> None:
    handle = await client.enqueue(run(), queue=queue)
    (lease,) = await api.take(queue)
    error = task_pb2.TaskError(type="Broken", message="no luck", trace="line 1")
    await api.fail(lease.lease_token, error=error, permanent=True)
    with pytest.raises(TaskFailedError, match=r"is dead: Broken: no luck") as caught:
        await handle.result(timeout=60)
    assert (caught.value.state, caught.value.error_type) == ("dead", "Broken")
    assert (caught.value.message, caught.value.trace) == ("no luck", "line 1")
    assert caught.value.task.task_id == handle.task_id


async def test_waiting_has_an_end(client: AsyncClient, queue: str) -> None:
    handle = await client.enqueue(run(), queue=queue)
    with pytest.raises(TimeoutError):
        await handle.result(timeout=0.2)
    with pytest.raises(TimeoutError):
        await handle.result(timeout=0)
    with pytest.raises(TaskNotFoundError):
        await client.wait("01890000-0000-7000-8000-000000000000", timeout=60)


async def test_the_sync_client_waits_too(server: ServerProcess, api: Api, queue: str) -> None:
    with Client(server.address) as client:
        handle = await asyncio.to_thread(client.enqueue, run(), queue=queue)
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(handle.result, timeout=0.1)
        waiting = asyncio.create_task(asyncio.to_thread(handle.result, timeout=60))
        (lease,) = await api.take(queue)
        await api.ack(lease.lease_token, tasks_pb2.StartRun(id="next"))
        assert await waiting == tasks_pb2.StartRun(id="next")


@pytest.fixture(scope="module")
def pair(server_database: Database, server: ServerProcess) -> Iterator[list[ServerProcess]]:
    """Two more servers on the same database."""
    with servers(server_database.dsn, 2) as group:
        yield group


async def test_the_server_that_watches_need_not_take_the_ack(
    pair: list[ServerProcess], queue: str
) -> None:
    async with AsyncClient(pair[0].address) as client, connected(pair[1].address) as other:
        handle = await client.enqueue(run(), queue=queue)
        waiting = asyncio.create_task(handle.result(timeout=60))
        (lease,) = await other.take(queue)
        await other.ack(lease.lease_token, tasks_pb2.StartRun(id="next"))
        assert await waiting == tasks_pb2.StartRun(id="next")


async def test_a_wait_survives_the_servers_restart(
    server_database: Database, api: Api, queue: str
) -> None:
    """The client's server is killed and starts again; the task ends meanwhile."""
    with ServerProcess(server_database.dsn, name="restarted") as restarted:
        async with AsyncClient(restarted.address) as client:
            handle = await client.enqueue(run(), queue=queue)
            waiting = asyncio.create_task(handle.result(timeout=60))
            (lease,) = await api.take(queue)
            restarted.kill()
            await api.ack(lease.lease_token, tasks_pb2.StartRun(id="next"))
            await asyncio.to_thread(restarted.start)
            assert await waiting == tasks_pb2.StartRun(id="next")


async def test_job_keys_and_uniqueness(client: AsyncClient, queue: str) -> None:
    first = await client.enqueue(run("a"), queue=queue, job_key=queue, delay=60)
    second = await client.enqueue(
        run("b"), queue=queue, job_key=queue, job_key_mode=JobKeyMode.UNSAFE_DEDUPE
    )
    third = await client.enqueue(run("c"), queue=queue, job_key=queue, delay=60)
    outcomes = [first.outcome, second.outcome, third.outcome]
    assert outcomes == [EnqueueOutcome.CREATED, EnqueueOutcome.KEPT, EnqueueOutcome.REPLACED]
    assert first.task_id == second.task_id == third.task_id
    unique = Unique(by_fields=["id"], by_queue=True)
    fourth = await client.enqueue(run("d"), queue=queue, unique=unique)
    fifth = await client.enqueue(run("d"), queue=queue, unique=unique)
    assert (fifth.outcome, fifth.task_id) == (EnqueueOutcome.KEPT, fourth.task_id)


@pytest.mark.parametrize("sync", [False, True])
async def test_loading_counts_and_keeps_the_order(
    server: ServerProcess, sql: Inspector, queue: str, sync: bool
) -> None:
    steps: list[int] = []

    def note(progress: LoadProgress) -> None:
        steps.append(progress.done)

    items = [EnqueueItem(run(f"{n}"), queue=queue) for n in range(2_500)]
    if sync:
        with Client(server.address) as sync_client:
            progress = await asyncio.to_thread(
                sync_client.load, iter(items), on_progress=note, chunk_size=400, in_flight=1
            )
    else:
        async with AsyncClient(server.address) as client:
            progress = await client.load(iter(items), on_progress=note, chunk_size=400, in_flight=1)
    assert progress == LoadProgress(created=2_500)
    assert steps == [400, 800, 1200, 1600, 2000, 2400, 2500]
    rows = await sql.rows(
        """
        select t.payload from workerqueue.tasks t join workerqueue.lanes l using (lane_id)
         where l.queue = %s order by t.position
        """,
        queue,
    )
    names = [tasks_pb2.RunFinished.FromString(row["payload"]).id for row in rows]
    assert names == [str(n) for n in range(2_500)]


async def test_loading_takes_from_the_source_as_it_goes(client: AsyncClient, queue: str) -> None:
    """Memory stays bounded: never more than a few chunks lie between the source and the server."""
    taken = 0
    furthest = 0

    async def source() -> AsyncIterator[EnqueueItem]:
        nonlocal taken
        for n in range(3_000):
            taken += 1
            yield EnqueueItem(run(f"{n}"), queue=queue)

    def note(progress: LoadProgress) -> None:
        nonlocal furthest
        furthest = max(furthest, taken - progress.done)

    await client.load(source(), on_progress=note, chunk_size=100, in_flight=3)
    assert taken == 3_000
    # Three chunks under way and one being gathered.
    assert furthest <= 400


async def test_loading_large_items_stays_within_a_message(
    client: AsyncClient, sql: Inspector, queue: str
) -> None:
    big = "x" * 700_000
    items = [
        EnqueueItem(
            tasks_pb2.ScheduleEmail(to="a@b.example", subject="s", html=big, text="t"), queue=queue
        )
        for _ in range(12)
    ]
    assert (await client.load(items)).created == 12


async def test_a_refused_item_is_raised_or_told(client: AsyncClient, queue: str) -> None:
    def items() -> Iterator[EnqueueItem]:
        for n in range(250):
            yield EnqueueItem(run("" if n in (120, 130) else f"{n}"), queue=queue)

    with pytest.raises(InvalidPayloadError) as caught:
        await client.load(items(), chunk_size=100, in_flight=1)
    assert caught.value.__notes__ == ["item 120 of the load (from 0)"]
    refused: list[int] = []
    progress = await client.load(
        items(), chunk_size=100, on_refused=lambda place, error: refused.append(place)
    )
    assert (progress.created, progress.refused, refused) == (248, 2, [120, 130])


async def test_what_cannot_be_meant_is_refused(client: AsyncClient) -> None:
    with pytest.raises(ValueError, match="chunk_size must be 1 to 10000"):
        await client.load([], chunk_size=10_001)
    with pytest.raises(ValueError, match="in_flight must be at least 1"):
        await client.load([], in_flight=0)
    assert await client.load([]) == LoadProgress()
