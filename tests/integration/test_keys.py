"""Concurrency keys: one at a time or N at a time, in order, and handed over at once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.servers import ServerProcess
from tests.sql import Inspector
from tests.toolkit import Api, connected, request, seconds
from workerqueue.tasks.v1 import tasks_pb2


@pytest.fixture(scope="module")
def second_server(server: ServerProcess, server_database):  # type: ignore[no-untyped-def]
    """Another server on the same database."""
    with ServerProcess(server_database.dsn, name="second server") as process:
        yield process


@pytest.fixture
async def other(second_server: ServerProcess) -> AsyncIterator[Api]:
    async with connected(second_server.address) as api:
        yield api


@pytest.fixture
def key(queue: str) -> str:
    """A key of the test's own."""
    return f"key-of-{queue}"


async def test_tasks_of_a_key_run_one_at_a_time_in_order(
    api: Api, queue: str, key: str, sql: Inspector
) -> None:
    ids = await api.ids([request(queue=queue, concurrency_key=key) for _ in range(5)])
    assert await sql.states(ids) == {"available": 1, "blocked": 4}
    async with api.worker(queue) as worker:
        for expected in ids:
            task = await worker.task()
            assert task.task_id == expected
            assert worker.untaken == []
            await worker.acked(task.lease_token)


async def test_the_policys_key_comes_from_the_payload(api: Api, queue: str) -> None:
    def operation(name: str) -> tasks_pb2.PerformTaskOperation:
        return tasks_pb2.PerformTaskOperation(id=name)

    ids = await api.ids(
        [request(operation(f"{queue}-{name}"), queue=queue) for name in ("a", "a", "b")]
    )
    got = await api.take(queue)
    assert [task.task_id for task in got] == [ids[0], ids[2]]
    assert [task.concurrency_key for task in got] == [f"tasks-{queue}-a", f"tasks-{queue}-b"]


async def test_an_empty_key_in_the_options_takes_the_policys_key_away(api: Api, queue: str) -> None:
    message = tasks_pb2.PerformTaskOperation(id=queue)
    await api.ids([request(message, queue=queue, concurrency_key="") for _ in range(3)])
    assert len(await api.take(queue)) == 3


async def test_a_key_holds_over_queues_and_kinds(api: Api, queue: str, key: str) -> None:
    first = await api.enqueue(queue=queue, concurrency_key=key)
    second = await api.enqueue(
        tasks_pb2.StartRun(id="r"), queue=f"{queue}-other", concurrency_key=key
    )
    assert await api.take(f"{queue}-other") == []
    (task,) = await api.take(queue)
    assert task.task_id == first.task_id
    await api.ack(task.lease_token)
    (task,) = await api.take(f"{queue}-other")
    assert task.task_id == second.task_id


async def test_a_limit_lets_so_many_run_at_once(
    api: Api, queue: str, key: str, sql: Inspector
) -> None:
    ids = await api.ids(
        [request(queue=queue, concurrency_key=key, concurrency_limit=3) for _ in range(8)]
    )
    async with api.worker(queue) as worker:
        for _ in range(5):
            task = await worker.task()
            assert (await sql.states(ids))["blocked"] > 0
            running = len(worker.received) - (8 - len(ids))
            assert running <= 3
            await worker.acked(task.lease_token)
            ids.remove(task.task_id)
        await worker.tasks(3)


async def test_priority_counts_inside_a_key(api: Api, queue: str, key: str) -> None:
    """Also against a task that holds the key but that nobody has leased yet."""
    made = [
        (await api.enqueue(queue=queue, concurrency_key=key, priority=priority)).task_id
        for priority in (0, 5, -5, 9)
    ]
    order = []
    async with api.worker(queue) as worker:
        for _ in made:
            task = await worker.task()
            order.append(task.task_id)
            await worker.acked(task.lease_token)
    assert order == [made[3], made[1], made[0], made[2]]


async def test_a_leased_holder_keeps_its_key_against_a_higher_priority(
    api: Api, queue: str, key: str
) -> None:
    await api.enqueue(queue=queue, concurrency_key=key)
    (holder,) = await api.take(queue)
    urgent = await api.enqueue(queue=queue, concurrency_key=key, priority=100)
    assert await api.take(queue) == []
    await api.ack(holder.lease_token)
    (task,) = await api.take(queue)
    assert task.task_id == urgent.task_id


async def test_with_mixed_limits_each_task_is_held_to_its_own(
    api: Api, queue: str, key: str
) -> None:
    wide = await api.ids(
        [request(queue=queue, concurrency_key=key, concurrency_limit=2) for _ in range(2)]
    )
    narrow = await api.enqueue(queue=queue, concurrency_key=key, concurrency_limit=1)
    last = await api.enqueue(queue=queue, concurrency_key=key, concurrency_limit=2)
    first = await api.take(queue)
    assert [task.task_id for task in first] == wide
    await api.ack(first[0].lease_token)
    # The narrow one is next and needs the key for itself; nobody passes it.
    assert await api.take(queue) == []
    await api.ack(first[1].lease_token)
    (task,) = await api.take(queue)
    assert task.task_id == narrow.task_id
    await api.ack(task.lease_token)
    (task,) = await api.take(queue)
    assert task.task_id == last.task_id


async def test_a_retrying_task_lets_its_successors_pass_and_takes_its_turn_later(
    api: Api, queue: str, key: str
) -> None:
    one, two, three = await api.ids([request(queue=queue, concurrency_key=key) for _ in range(3)])
    async with api.worker(queue) as worker:
        first = await worker.task()
        await worker.fail(first.lease_token, retry_after=seconds(0.2))
        second = await worker.task()
        assert (first.task_id, second.task_id) == (one, two)
        # Due again while the key is held: it waits, and comes after whoever was there before.
        await worker.fail(second.lease_token, retry_after=seconds(3600))
        third = await worker.task()
        assert third.task_id == three
        await worker.ack(third.lease_token)
        again = await worker.task()
        assert (again.task_id, again.attempt) == (one, 2)


@pytest.mark.parametrize("end", ["ack", "dead", "snooze", "timeout", "lost"])
async def test_whatever_ends_the_holder_the_next_runs_at_once(
    api: Api, queue: str, key: str, end: str
) -> None:
    holder, successor = await api.ids(
        [
            request(
                queue=queue,
                concurrency_key=key,
                max_attempts=1,
                lease_duration=seconds(1 if end == "lost" else 60),
                timeout=seconds(1 if end == "timeout" else 60),
            ),
            request(queue=queue, concurrency_key=key),
        ]
    )
    async with api.worker(queue) as worker:
        task = await worker.task()
        assert task.task_id == holder
        if end == "ack":
            await api.ack(task.lease_token)
        elif end == "dead":
            await api.fail(task.lease_token, permanent=True)
        elif end == "snooze":
            await api.snooze(task.lease_token, 3600)
        assert (await worker.task()).task_id == successor


async def test_a_holder_that_expires_unstarted_hands_over(
    api: Api, queue: str, key: str, sql: Inspector
) -> None:
    past = await sql.value("select now() - interval '1 minute'")
    expired = await api.enqueue(queue=queue, concurrency_key=key, expire_at=past)
    successor = await api.enqueue(queue=queue, concurrency_key=key)
    async with api.worker(queue) as worker:
        assert (await worker.task()).task_id == successor.task_id
    assert await sql.state(expired.task_id) == "expired"


async def test_a_released_task_keeps_key_place_and_attempt(api: Api, queue: str, key: str) -> None:
    ids = await api.ids([request(queue=queue, concurrency_key=key) for _ in range(2)])
    (task,) = await api.take(queue)
    await api.release(task.lease_token)
    (again,) = await api.take(queue)
    assert (again.task_id, again.attempt) == (ids[0], 1)


async def test_a_higher_priority_that_waits_takes_the_turn_of_a_released_holder(
    api: Api, queue: str, key: str
) -> None:
    holder = await api.enqueue(queue=queue, concurrency_key=key)
    (task,) = await api.take(queue)
    urgent = await api.enqueue(queue=queue, concurrency_key=key, priority=9)
    await api.release(task.lease_token)
    (first,) = await api.take(queue)
    assert first.task_id == urgent.task_id
    await api.ack(first.lease_token)
    (second,) = await api.take(queue)
    assert (second.task_id, second.attempt) == (holder.task_id, 1)


async def test_a_scheduled_task_does_not_hold_its_key_before_it_is_due(
    api: Api, queue: str, key: str
) -> None:
    later = await api.enqueue(queue=queue, concurrency_key=key, delay=seconds(1))
    now = await api.enqueue(queue=queue, concurrency_key=key)
    async with api.worker(queue) as worker:
        first = await worker.task()
        assert first.task_id == now.task_id
        await worker.acked(first.lease_token)
        assert (await worker.task()).task_id == later.task_id


async def test_keys_hold_across_servers_and_a_handover_wakes_the_other_server(
    api: Api, other: Api, queue: str, key: str
) -> None:
    async with (
        api.worker(queue, window=1) as here,
        other.worker(f"{queue}-there", window=1) as there,
    ):
        await api.ids(
            [
                request(queue=queue, concurrency_key=key),
                request(queue=f"{queue}-there", concurrency_key=key),
            ]
        )
        first = await here.task()
        assert there.received == []
        await here.acked(first.lease_token)
        second = await there.task()
        # An answer given on another server than the granting one frees the key just the same.
        third = await other.enqueue(queue=queue, concurrency_key=key)
        await api.ack(second.lease_token)
        assert (await here.task()).task_id == third.task_id
