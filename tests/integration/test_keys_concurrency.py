"""Job keys and uniqueness under callers on two servers and producers in SQL, all at once."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, TypeVar

import grpc
import pytest
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from tests.postgres import Database, PostgresCluster
from tests.servers import ServerProcess, servers
from tests.sql import Inspector
from tests.toolkit import Api, connected, eventually, refusal, request, seconds
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import policy_pb2, worker_queue_pb2

T = TypeVar("T")

CALLERS = 50
CREATED = worker_queue_pb2.ENQUEUE_OUTCOME_CREATED
REPLACED = worker_queue_pb2.ENQUEUE_OUTCOME_REPLACED
KEPT = worker_queue_pb2.ENQUEUE_OUTCOME_KEPT
EXISTED = worker_queue_pb2.ENQUEUE_OUTCOME_ALREADY_EXISTED
MODES = [
    policy_pb2.JOB_KEY_MODE_REPLACE,
    policy_pb2.JOB_KEY_MODE_PRESERVE_RUN_AT,
    policy_pb2.JOB_KEY_MODE_UNSAFE_DEDUPE,
]


@pytest.fixture(scope="module")
def shared(postgres: PostgresCluster) -> Iterator[Database]:
    """The database of both servers."""
    database = postgres.create_migrated_database()
    yield database
    postgres.drop_database(database)


@pytest.fixture(scope="module")
def pair(shared: Database) -> Iterator[list[ServerProcess]]:
    """Two servers on one database."""
    with servers(shared.dsn, 2) as group:
        yield group


@pytest.fixture
async def apis(pair: list[ServerProcess]) -> AsyncIterator[list[Api]]:
    """A connection to each server."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(connected(server.address)) for server in pair]


@pytest.fixture
async def look(shared: Database) -> AsyncIterator[Inspector]:
    """The servers' tables."""
    async with await AsyncConnection.connect(shared.dsn, autocommit=True) as connection:
        yield Inspector(connection)


def run(name: str) -> tasks_pb2.RunFinished:
    return tasks_pb2.RunFinished(id=name)


async def stored(call: Callable[[], Awaitable[T]]) -> T:
    """The call's answer. A call that others kept from its key for too long stored nothing."""
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if refusal(error).reason != "KEY_BUSY":
                raise


async def all_at_once(
    apis: list[Api], made: list[worker_queue_pb2.EnqueueRequest]
) -> list[worker_queue_pb2.EnqueueResponse]:
    return await asyncio.gather(
        *(stored(partial(apis[place % len(apis)].send, item)) for place, item in enumerate(made))
    )


@pytest.mark.parametrize("mode", MODES)
async def test_fifty_callers_share_one_job(
    apis: list[Api], look: Inspector, queue: str, mode: policy_pb2.JobKeyMode
) -> None:
    for round_no in range(5):
        key = f"{queue}-{mode}-{round_no}"
        answers = await all_at_once(
            apis,
            [
                request(run(f"{n}"), queue=queue, job_key=key, job_key_mode=mode, delay=seconds(60))
                for n in range(CALLERS)
            ],
        )
        others = KEPT if mode == policy_pb2.JOB_KEY_MODE_UNSAFE_DEDUPE else REPLACED
        assert Counter(answer.outcome for answer in answers) == {CREATED: 1, others: CALLERS - 1}
        assert len({answer.task.task_id for answer in answers}) == 1
        assert all(answer.task.job_key == key for answer in answers)
        assert (
            await look.value("select count(*) from workerqueue.tasks where job_key = %s", key) == 1
        )


async def test_a_job_never_runs_twice_at_once(apis: list[Api], look: Inspector, queue: str) -> None:
    """Callers replace it while workers of both servers run it, and the last word counts."""
    key = f"{queue}-job"
    running = 0
    peak = 0
    seen: list[str] = []
    done = asyncio.Event()

    async def work(api: Api) -> None:
        nonlocal running, peak
        async with api.worker(queue, window=10) as worker:
            while not done.is_set():
                try:
                    task = await worker.task(limit=0.3)
                except AssertionError:
                    continue
                running += 1
                peak = max(peak, running)
                message = tasks_pb2.RunFinished()
                task.payload.Unpack(message)
                seen.append(message.id)
                await asyncio.sleep(0)
                running -= 1
                await worker.acked(task.lease_token)

    workers = [asyncio.create_task(work(api)) for api in apis for _ in range(2)]
    answers = []
    for burst in range(20):
        answers += await all_at_once(
            apis, [request(run(f"{burst}-{n}"), queue=queue, job_key=key) for n in range(10)]
        )
    answers += await all_at_once(apis, [request(run("last"), queue=queue, job_key=key)])
    await eventually(lambda: "last" in seen, "the last job runs")
    done.set()
    await asyncio.gather(*workers)
    assert peak == 1
    # Each stored job ran exactly once, but for those that another one, stored at the same moment,
    # stands for. No job ran with what was replaced before.
    created = [answer.task.task_id for answer in answers if answer.outcome == CREATED]
    ends = await look.rows(
        "select state::text, last_error ->> 'type' as why from workerqueue.history"
        " where id = any (%s::uuid[])",
        created,
    )
    counts = Counter((end["state"], end["why"]) for end in ends)
    assert counts.total() == len(set(created)) == len(created)
    assert counts.keys() <= {("succeeded", None), ("cancelled", "Replaced")}
    assert counts["succeeded", None] == len(seen) == len(set(seen))


@pytest.mark.parametrize("strict", [False, True])
async def test_fifty_callers_store_one_unique_task(
    apis: list[Api], look: Inspector, queue: str, strict: bool
) -> None:
    unique = worker_queue_pb2.Unique(by_args=True, by_queue=True)
    if strict:
        unique.on_conflict = worker_queue_pb2.UNIQUE_CONFLICT_FAIL
    for round_no in range(5):

        async def send(place: int, name: str = f"{queue}-{round_no}") -> tuple[str, str]:
            try:
                made = request(run(name), queue=queue, unique=unique)
                answer = await stored(partial(apis[place % 2].send, made))
            except grpc.aio.AioRpcError as error:
                return error.code().name, ""
            return worker_queue_pb2.EnqueueOutcome.Name(answer.outcome), answer.task.task_id

        answers = await asyncio.gather(*(send(place) for place in range(CALLERS)))
        others = "ALREADY_EXISTS" if strict else "ENQUEUE_OUTCOME_KEPT"
        expected = {"ENQUEUE_OUTCOME_CREATED": 1, others: CALLERS - 1}
        assert Counter(outcome for outcome, _ in answers) == expected
        assert len({task_id for _, task_id in answers if task_id}) == 1


async def test_repeats_of_one_request_at_once(apis: list[Api], look: Inspector, queue: str) -> None:
    """With and without keys: one task, and one answer says that it was created."""
    for options in (
        {},
        {"job_key": queue},
        {"unique": worker_queue_pb2.Unique(by_args=True, by_queue=True)},
    ):
        made: Any = request(run(queue), task_id=str(uuid.uuid4()), queue=queue, **options)
        answers = await all_at_once(apis, [made] * CALLERS)
        expected = {CREATED: 1, EXISTED: CALLERS - 1}
        assert Counter(answer.outcome for answer in answers) == expected
        assert {answer.task.task_id for answer in answers} == {made.task_id}


async def test_batches_with_shared_keys_in_other_orders(
    apis: list[Api], look: Inspector, queue: str
) -> None:
    """Batches that lock each other's keys the other way round must neither fail nor mix."""
    keys = [f"{queue}-{n}" for n in range(20)]

    async def send(place: int) -> list[worker_queue_pb2.EnqueueBatchResult]:
        ordered = keys if place % 2 else keys[::-1]
        made = [
            request(run(f"{place}"), queue=queue, job_key=key, delay=seconds(60)) for key in ordered
        ]
        return await stored(partial(apis[place % 2].batch, made))

    results = await asyncio.gather(*(send(place) for place in range(20)))
    assert not any(result.HasField("error") for batch in results for result in batch)
    rows = await look.rows(
        "select job_key, payload from workerqueue.tasks where job_key = any (%s)", keys
    )
    assert sorted(row["job_key"] for row in rows) == sorted(keys)
    outcomes = Counter(result.outcome for batch in results for result in batch)
    assert outcomes == {CREATED: 20, REPLACED: 380}


async def test_producers_in_sql_and_by_rpc_share_a_job(
    apis: list[Api], shared: Database, look: Inspector, queue: str
) -> None:
    key = f"{queue}-mixed"

    async def by_sql(place: int) -> str:
        async with await AsyncConnection.connect(shared.dsn) as connection:
            cursor = await connection.execute(
                "select outcome from workerqueue.enqueue("
                "'runFinished', %s, queue => %s, job_key => %s, delay => '1 minute')",
                [Jsonb({"id": f"sql-{place}"}), queue, key],
            )
            row = await cursor.fetchone()
            assert row is not None
            return str(row[0])

    async def by_rpc(place: int) -> str:
        made = request(run(f"rpc-{place}"), queue=queue, job_key=key, delay=seconds(60))
        answer = await stored(partial(apis[place % 2].send, made))
        return {CREATED: "created", REPLACED: "replaced"}[answer.outcome]

    outcomes = await asyncio.gather(*(f(n) for n in range(20) for f in (by_sql, by_rpc)))
    assert Counter(outcomes) == {"created": 1, "replaced": 39}
