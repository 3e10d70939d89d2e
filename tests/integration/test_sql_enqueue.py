"""Enqueue by SQL: in the caller's transaction, with few rights, holding up nobody."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from tests.postgres import Database
from tests.sql import Inspector
from tests.toolkit import Api, eventually, request, seconds
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import task_admin_pb2, worker_queue_pb2
from workerqueue.v1.worker_queue_admin_pb2_grpc import WorkerQueueAdminStub

KEPT = worker_queue_pb2.ENQUEUE_OUTCOME_KEPT
CREATED = worker_queue_pb2.ENQUEUE_OUTCOME_CREATED
REPLACED = worker_queue_pb2.ENQUEUE_OUTCOME_REPLACED

pytestmark = pytest.mark.all_postgres


class Producer:
    """An application's connection, in a role that may do nothing but enqueue."""

    def __init__(self, connection: AsyncConnection[dict[str, Any]]) -> None:
        self.connection = connection

    async def enqueue(self, kind: str, args: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Calls workerqueue.enqueue with the options by name."""
        names = "".join(f", {name} => %({name})s" for name in options)
        cursor = await self.connection.execute(
            f"select * from workerqueue.enqueue(%(kind)s, %(args)s{names})",
            {"kind": kind, "args": Jsonb(args), **options},
        )
        (row,) = await cursor.fetchall()
        return row

    async def batch(self, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Calls workerqueue.enqueue_batch."""
        cursor = await self.connection.execute(
            "select * from workerqueue.enqueue_batch(%s)", [Jsonb(tasks)]
        )
        return await cursor.fetchall()


@pytest.fixture
async def producer(server: object, server_database: Database) -> AsyncIterator[Producer]:
    """A connection of a role with EXECUTE on the two functions."""
    async with await AsyncConnection.connect(
        server_database.dsn, autocommit=True, row_factory=dict_row
    ) as connection:
        await connection.execute(
            """
            do $$ begin
              if not exists (select from pg_roles where rolname = 'shop') then
                create role shop;
              end if;
            end $$;
            grant usage on schema workerqueue to shop;
            grant execute on function workerqueue.enqueue, workerqueue.enqueue_batch to shop;
            set role shop;
            """
        )
        yield Producer(connection)


async def test_committed_is_queued(api: Api, producer: Producer, queue: str) -> None:
    async with api.worker(queue) as worker:
        async with producer.connection.transaction():
            stored = await producer.enqueue(
                "githubPush",
                {"branch": "main", "commitSha": "c0ffee", "repository": "r"},
                queue=queue,
                metadata=Jsonb({"who": "shop"}),
            )
        assert stored["outcome"] == "created"
        task = await worker.task()
        assert task.task_id == str(stored["id"])
        message = tasks_pb2.GithubPush()
        assert task.payload.Unpack(message)
        assert message == tasks_pb2.GithubPush(branch="main", commit_sha="c0ffee", repository="r")
        assert dict(task.metadata) == {"who": "shop"}
        await worker.acked(task.lease_token)


async def test_rolled_back_is_gone(
    api: Api, producer: Producer, sql: Inspector, queue: str
) -> None:
    async with producer.connection.transaction(force_rollback=True):
        stored = await producer.enqueue("runFinished", {"id": "a"}, queue=queue, job_key=queue)
    assert await sql.states([str(stored["id"])]) == {}
    assert await api.take(queue) == []
    assert (await api.send(request(queue=queue, job_key=queue))).outcome == CREATED


async def test_a_savepoint_rolls_back_alone(api: Api, producer: Producer, queue: str) -> None:
    async with producer.connection.transaction():
        await producer.enqueue("runFinished", {"id": "a"}, queue=queue)
        async with producer.connection.transaction(force_rollback=True):
            await producer.enqueue("runFinished", {"id": "b"}, queue=queue)
        await producer.enqueue("runFinished", {"id": "c"}, queue=queue)
    async with api.worker(queue) as worker:
        names = []
        for task in await worker.tasks(2):
            message = tasks_pb2.RunFinished()
            task.payload.Unpack(message)
            names.append(message.id)
        assert names == ["a", "c"]


async def test_it_needs_rights_and_gives_no_others(producer: Producer, sql: Inspector) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await producer.connection.execute("select * from workerqueue.tasks")
    await sql.rows("revoke execute on function workerqueue.enqueue from shop")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await producer.enqueue("runFinished", {"id": "a"})


async def test_a_search_path_cannot_be_hijacked(producer: Producer, queue: str) -> None:
    await producer.connection.execute(
        """
        create temp table tasks (id uuid);
        create function pg_temp.now() returns text language sql as 'select null::text';
        set search_path = pg_temp, workerqueue, pg_catalog;
        """
    )
    assert (await producer.enqueue("runFinished", {"id": "a"}, queue=queue))["outcome"] == "created"


async def test_the_kinds_policy_applies(api: Api, producer: Producer, sql: Inspector) -> None:
    run = f"run-{uuid.uuid4().hex}"
    stored = await producer.enqueue("performRunExecution", {"id": run})
    twin = await api.enqueue(tasks_pb2.PerformRunExecution(id=run))
    columns = (
        "lane_id, priority, max_attempts, timeout_ms, lease_duration_ms, concurrency_key, "
        "concurrency_limit, retry_policy, retention, expire_at, tags, metadata"
    )
    mine, other = await sql.rows(
        f"select {columns} from workerqueue.tasks where id = any (%s) order by position",
        [stored["id"], uuid.UUID(twin.task_id)],
    )
    assert mine == other
    assert mine["concurrency_key"] == f"runs-{run}"


async def test_concurrency_keys_are_kept(api: Api, producer: Producer, queue: str) -> None:
    async with api.worker(queue) as worker:
        ids = [
            str(
                (
                    await producer.enqueue(
                        "runFinished", {"id": "a"}, queue=queue, concurrency_key=queue
                    )
                )["id"]
            )
            for _ in range(3)
        ]
        for expected in ids:
            task = await worker.task()
            assert task.task_id == expected
            assert worker.untaken == []
            await worker.acked(task.lease_token)


async def test_a_new_queue_with_a_new_lane_is_served(
    api: Api, producer: Producer, sql: Inspector, queue: str
) -> None:
    name = f"{queue}-new"
    async with api.worker(name) as worker:
        await producer.enqueue("runFinished", {"id": "a"}, queue=name, priority=7)
        await worker.task()
    assert await sql.value("select count(*) from workerqueue.queues where name = %s", name) == 1


async def test_a_batch_is_stored_in_order(api: Api, producer: Producer, queue: str) -> None:
    rows = await producer.batch(
        [{"kind": "runFinished", "args": {"id": str(n)}, "queue": queue} for n in range(300)]
    )
    assert [row["place"] for row in rows] == list(range(1, 301))
    async with api.worker(queue, window=300) as worker:
        leased = await worker.tasks(300)
    assert [task.task_id for task in leased] == [str(row["task_id"]) for row in rows]


async def test_one_bad_item_fails_the_batch(api: Api, producer: Producer, queue: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="priority"):
        await producer.batch(
            [
                {"kind": "runFinished", "args": {"id": "a"}, "queue": queue},
                {"kind": "runFinished", "args": {"id": "b"}, "queue": queue, "priority": 1001},
            ]
        )
    assert await api.take(queue) == []


@pytest.mark.parametrize(
    ("kind", "args", "options", "complaint"),
    [
        ("runFinishd", {}, {}, "unknown task kind 'runFinishd'"),
        ("runFinished", {"idd": "a"}, {}, "has no field 'idd'"),
        ("runFinished", [], {}, "must be a JSON object"),
        ("performRunExecution", {"id": 7}, {}, "7 is no string"),
        ("runFinished", {"id": "a"}, {"queue": "no spaces"}, "queue: must be"),
        ("runFinished", {"id": "a"}, {"priority": -1001}, "priority: must be -1000 to 1000"),
        ("runFinished", {"id": "a"}, {"max_attempts": 0}, "max_attempts: must be"),
        ("runFinished", {"id": "a"}, {"timeout": "50 milliseconds"}, "timeout: must be"),
        ("runFinished", {"id": "a"}, {"lease_duration": "2 hours"}, "lease_duration: must be"),
        ("runFinished", {"id": "a"}, {"delay": "-1 second"}, "delay: must be"),
        ("runFinished", {"id": "a"}, {"delay": "1 s", "run_at": "2030-01-01"}, "not both"),
        ("runFinished", {"id": "a"}, {"run_at": "infinity"}, "run_at: must be a time between"),
        ("runFinished", {"id": "a"}, {"concurrency_key": "x" * 513}, "longer than 512 bytes"),
        ("runFinished", {"id": "a"}, {"job_key_mode": "upsert"}, "job_key_mode: must be"),
        ("runFinished", {"id": "a"}, {"tags": [""]}, "tags: must be"),
        ("runFinished", {"id": "a"}, {"metadata": Jsonb({"a": 1})}, "metadata: must be"),
        ("runFinished", {"id": "a"}, {"retry": Jsonb({"jitter": 2})}, "retry.jitter: must be"),
        ("runFinished", {"id": "a"}, {"unique_by": Jsonb({"by_arg": True})}, "unknown option"),
        ("runFinished", {"id": "a"}, {"unique_by": Jsonb({"by_fields": ["x"]})}, "has no field x"),
        (
            "runFinished",
            {"id": "a"},
            {"unique_by": Jsonb({"by_args": True}), "job_key": "a"},
            "cannot be combined",
        ),
    ],
)
async def test_what_cannot_be_meant_is_refused(
    producer: Producer, kind: str, args: Any, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=complaint):
        await producer.enqueue(kind, args, **options)


async def test_an_unknown_kind_names_the_nearest(producer: Producer) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue) as caught:
        await producer.enqueue("startRunn", {})
    assert "Did you mean startRun, " in (caught.value.diag.message_hint or "")


async def test_job_keys_are_shared_with_the_rpc(
    api: Api, producer: Producer, sql: Inspector, queue: str
) -> None:
    first = await api.send(
        request(tasks_pb2.RunFinished(id="rpc"), queue=queue, job_key=queue, delay=seconds(60))
    )
    stored = await producer.enqueue("runFinished", {"id": "sql"}, queue=queue, job_key=queue)
    assert (str(stored["id"]), stored["outcome"]) == (first.task.task_id, "replaced")
    async with api.worker(queue) as worker:
        held = await worker.task()
        message = tasks_pb2.RunFinished()
        held.payload.Unpack(message)
        assert message.id == "sql"
        successor = await producer.enqueue("runFinished", {"id": "b"}, queue=queue, job_key=queue)
        assert successor["outcome"] == "created"
        again = await api.send(request(tasks_pb2.RunFinished(id="c"), queue=queue, job_key=queue))
        assert (again.outcome, again.task.task_id) == (REPLACED, str(successor["id"]))
        await worker.acked(held.lease_token)
        assert (await worker.task()).task_id == str(successor["id"])


async def test_uniqueness_is_shared_with_the_rpc(api: Api, producer: Producer, queue: str) -> None:
    name = uuid.uuid4().hex
    args = {"branch": "b", "commit_sha": name, "repository": "r"}
    unique = Jsonb({"by_args": True, "by_period": "1 hour"})
    stored = await producer.enqueue("githubPush", args, queue=queue, unique_by=unique)
    twin = await api.send(
        request(
            tasks_pb2.GithubPush(branch="b", commit_sha=name, repository="r"),
            queue=queue,
            unique=worker_queue_pb2.Unique(by_args=True, by_period=seconds(3600)),
        )
    )
    assert (twin.outcome, twin.task.task_id) == (KEPT, str(stored["id"]))
    kept = await producer.enqueue("githubPush", args, queue=queue, unique_by=unique)
    assert kept == {"id": stored["id"], "outcome": "kept"}
    strict = Jsonb({"by_args": True, "by_period": "1 hour", "on_conflict": "fail"})
    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        await producer.enqueue("githubPush", args, queue=queue, unique_by=strict)
    assert caught.value.diag.message_detail == str(stored["id"])


async def test_a_repeated_id_makes_no_second_task(api: Api, producer: Producer, queue: str) -> None:
    task_id = uuid.uuid4()
    for outcome in ("created", "existed"):
        stored = await producer.enqueue("runFinished", {"id": "a"}, queue=queue, task_id=task_id)
        assert stored == {"id": task_id, "outcome": outcome}
    assert len(await api.take(queue)) == 1


async def test_a_payload_that_breaks_its_rules_is_buried_when_leased(
    api: Api, producer: Producer, sql: Inspector, queue: str
) -> None:
    bad = await producer.enqueue("runFinished", {"id": ""}, queue=queue)
    worse = await producer.enqueue("runFinished", {"id": {"no": "text"}}, queue=queue)
    good = await producer.enqueue("runFinished", {"id": "a"}, queue=queue)
    async with api.worker(queue, window=1) as worker:
        task = await worker.task()
        assert task.task_id == str(good["id"])
        await worker.acked(task.lease_token)
    for stored in (bad, worse):
        assert await sql.state(str(stored["id"])) == "dead"
        error = (await sql.task(str(stored["id"])))["last_error"]
        assert error["type"] == "InvalidPayload"
        assert "args.id" in error["message"] or "id" in error["message"]


async def test_a_task_shows_its_payload(api: Api, producer: Producer, queue: str) -> None:
    stored = await producer.enqueue("runFinished", {"id": "a"}, queue=queue, delay="1 hour")
    admin = WorkerQueueAdminStub(api.channel)
    task = (await admin.GetTask(task_admin_pb2.GetTaskRequest(task_id=str(stored["id"])))).task
    message = tasks_pb2.RunFinished()
    assert task.payload.Unpack(message)
    assert message.id == "a"


async def test_an_open_transaction_holds_up_nobody(
    api: Api, producer: Producer, sql: Inspector, queue: str
) -> None:
    """Neither other tasks of its queue and new lane, nor the answer of the job it will follow."""
    await api.enqueue(queue=queue, job_key=queue)
    async with api.worker(queue) as worker:
        held = await worker.task()
        async with producer.connection.transaction():
            successor = await producer.enqueue(
                "runFinished", {"id": "b"}, queue=queue, job_key=queue
            )
            await producer.enqueue(
                "runFinished", {"id": "c"}, queue=queue, priority=3, concurrency_key=queue
            )
            # The same new lane, the same concurrency key.
            plain = await api.enqueue(queue=queue, priority=3, concurrency_key=queue)
            task = await worker.task()
            assert task.task_id == plain.task_id
            await worker.acked(task.lease_token)
            await worker.acked(held.lease_token)
            # A caller that cannot see the successor makes a job of its own.
            newer = await api.send(request(queue=queue, job_key=queue))
            assert newer.outcome == CREATED
            running = await worker.task()
            assert running.task_id == newer.task.task_id
            assert worker.untaken == []
        keyed = await worker.task()
        assert keyed.concurrency_key == queue
        assert worker.untaken == []
        await worker.acked(running.lease_token)
        assert (await worker.task()).task_id == str(successor["id"])


async def test_a_successor_committed_after_its_job_failed(
    api: Api, producer: Producer, sql: Inspector, queue: str
) -> None:
    """The failed job waits for its next attempt by then; the successor takes its place."""
    first = await api.enqueue(queue=queue, job_key=queue)
    async with api.worker(queue) as worker:
        held = await worker.task()
        async with producer.connection.transaction():
            successor = await producer.enqueue(
                "runFinished", {"id": "b"}, queue=queue, job_key=queue
            )
            await api.fail(held.lease_token, retry_after=seconds(60))
        assert (await worker.task()).task_id == str(successor["id"])
    assert await sql.state(first.task_id) == "cancelled"


async def test_a_successor_committed_after_its_job_ended_and_another_came(
    api: Api, producer: Producer, sql: Inspector, queue: str
) -> None:
    """A waiting newer job sees all that the transaction did, and stands for both."""
    await api.enqueue(queue=queue, job_key=queue)
    async with api.worker(queue, window=1) as worker:
        held = await worker.task()
        async with producer.connection.transaction():
            successor = await producer.enqueue(
                "runFinished", {"id": "b"}, queue=queue, job_key=queue
            )
            await worker.acked(held.lease_token)
            # Far enough off not to begin before the older one is settled.
            newer = await api.send(request(queue=queue, job_key=queue, delay=seconds(5)))
            assert newer.outcome == CREATED

        async def cancelled() -> bool:
            return await sql.state(str(successor["id"])) == "cancelled"

        await eventually(cancelled, "the older job is cancelled")
        assert (await worker.task()).task_id == newer.task.task_id


async def test_one_transaction_sends_one_notification(
    producer: Producer, server_database: Database, queue: str
) -> None:
    async with await AsyncConnection.connect(server_database.dsn, autocommit=True) as listener:
        await listener.execute("listen workerqueue")
        async with producer.connection.transaction():
            for _ in range(50):
                await producer.enqueue("runFinished", {"id": "a"}, queue=queue)
        await producer.connection.execute("select 1")
        mine = []
        async for notice in listener.notifies(timeout=1.0):
            hint = json.loads(notice.payload)
            if hint["from"] == "sql":
                mine.append(hint)
        assert len(mine) == 1


async def test_a_large_batch_fits_a_notification(api: Api, producer: Producer, queue: str) -> None:
    """Keys that do not fit into it are found by the servers themselves."""
    keys = [f"{queue}-{n:04}-{'x' * 100}" for n in range(300)]
    await producer.batch(
        [
            {"kind": "runFinished", "args": {"id": "a"}, "queue": queue, "concurrency_key": key}
            for key in keys
        ]
    )
    async with api.worker(queue, window=300) as worker:
        assert len(await worker.tasks(300)) == 300
