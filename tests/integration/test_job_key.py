"""Job keys over the wire: each mode with a waiting, a tried, a leased and a finished job."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from tests.sql import Inspector
from tests.toolkit import Api, dynamic, eventually, packed, refused, request, seconds
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import policy_pb2, task_pb2, worker_queue_pb2

REPLACE = policy_pb2.JOB_KEY_MODE_REPLACE
PRESERVE = policy_pb2.JOB_KEY_MODE_PRESERVE_RUN_AT
DEDUPE = policy_pb2.JOB_KEY_MODE_UNSAFE_DEDUPE

CREATED = worker_queue_pb2.ENQUEUE_OUTCOME_CREATED
EXISTED = worker_queue_pb2.ENQUEUE_OUTCOME_ALREADY_EXISTED
REPLACED = worker_queue_pb2.ENQUEUE_OUTCOME_REPLACED
KEPT = worker_queue_pb2.ENQUEUE_OUTCOME_KEPT


@pytest.fixture
def key() -> str:
    """A job key of the test's own."""
    return f"job-{uuid.uuid4().hex}"


def run(name: str) -> tasks_pb2.RunFinished:
    return tasks_pb2.RunFinished(id=name)


def payload_id(task: task_pb2.Task) -> str:
    message = tasks_pb2.RunFinished()
    assert task.payload.Unpack(message)
    return message.id


async def test_replace_takes_everything_but_the_id(api: Api, queue: str, key: str) -> None:
    first = await api.send(request(run("a"), queue=queue, job_key=key, delay=seconds(60)))
    second = await api.send(
        request(
            tasks_pb2.StartRun(id="b"),
            queue=queue + "-b",
            job_key=key,
            priority=7,
            max_attempts=9,
            tags=["new"],
            metadata={"who": "second"},
            delay=seconds(3600),
        )
    )
    assert (first.outcome, second.outcome) == (CREATED, REPLACED)
    task = second.task
    assert task.task_id == first.task.task_id
    assert task.kind == "startRun"
    assert (task.queue, task.priority, task.max_attempts) == (queue + "-b", 7, 9)
    assert (list(task.tags), dict(task.metadata)) == (["new"], {"who": "second"})
    assert task.job_key == key
    assert task.state == task_pb2.TASK_STATE_SCHEDULED
    assert task.run_at.ToDatetime() - first.task.run_at.ToDatetime() > timedelta(minutes=50)
    assert task.created_at == first.task.created_at


async def test_replace_makes_a_scheduled_job_available_now(api: Api, queue: str, key: str) -> None:
    await api.send(request(run("a"), queue=queue, job_key=key, delay=seconds(3600)))
    async with api.worker(queue) as worker:
        await api.send(request(run("b"), queue=queue, job_key=key))
        task = await worker.task()
        message = tasks_pb2.RunFinished()
        assert task.payload.Unpack(message)
        assert message.id == "b"
        await worker.acked(task.lease_token)
    assert await api.take(queue) == []


async def test_preserve_run_at_keeps_the_time_of_an_untried_job(
    api: Api, queue: str, key: str
) -> None:
    first = await api.send(request(run("a"), queue=queue, job_key=key, delay=seconds(60)))
    second = await api.send(
        request(run("b"), queue=queue, job_key=key, job_key_mode=PRESERVE, delay=seconds(7200))
    )
    assert second.outcome == REPLACED
    assert second.task.run_at == first.task.run_at
    assert payload_id(second.task) == "b"


@pytest.mark.parametrize("mode", [REPLACE, PRESERVE])
async def test_a_tried_job_starts_anew(
    api: Api, sql: Inspector, queue: str, key: str, mode: policy_pb2.JobKeyMode
) -> None:
    first = await api.send(request(run("a"), queue=queue, job_key=key))
    (lease,) = await api.take(queue)
    await api.fail(
        lease.lease_token,
        error=task_pb2.TaskError(type="Broken"),
        retry_after=seconds(3600),
    )
    second = await api.send(request(run("b"), queue=queue, job_key=key, job_key_mode=mode))
    assert second.outcome == REPLACED
    assert second.task.task_id == first.task.task_id
    assert second.task.attempt == 0
    assert not second.task.HasField("last_error")
    assert second.task.state == task_pb2.TASK_STATE_AVAILABLE
    (again,) = await api.take(queue)
    assert again.attempt == 1


async def test_unsafe_dedupe_changes_nothing(api: Api, queue: str, key: str) -> None:
    first = await api.send(request(run("a"), queue=queue, job_key=key, delay=seconds(60)))
    second = await api.send(
        request(tasks_pb2.StartRun(id="b"), job_key=key, job_key_mode=DEDUPE, queue="elsewhere")
    )
    assert second.outcome == KEPT
    assert second.task == first.task


async def test_unsafe_dedupe_keeps_a_leased_job(api: Api, queue: str, key: str) -> None:
    first = await api.send(request(run("a"), queue=queue, job_key=key))
    (lease,) = await api.take(queue)
    second = await api.send(request(run("b"), queue=queue, job_key=key, job_key_mode=DEDUPE))
    assert (second.outcome, second.task.task_id) == (KEPT, first.task.task_id)
    await api.ack(lease.lease_token)
    third = await api.send(request(run("c"), queue=queue, job_key=key, job_key_mode=DEDUPE))
    assert third.outcome == CREATED
    assert third.task.task_id != first.task.task_id


@pytest.mark.parametrize("mode", [REPLACE, PRESERVE])
async def test_behind_a_lease_one_successor_waits_and_takes_later_changes(
    api: Api, queue: str, key: str, mode: policy_pb2.JobKeyMode
) -> None:
    first = await api.send(request(run("a"), queue=queue, job_key=key))
    async with api.worker(queue) as worker:
        held = await worker.task()
        second = await api.send(request(run("b"), queue=queue, job_key=key, job_key_mode=mode))
        assert second.outcome == CREATED
        assert second.task.task_id != first.task.task_id
        assert second.task.state == task_pb2.TASK_STATE_BLOCKED
        third = await api.send(request(run("c"), queue=queue, job_key=key, job_key_mode=mode))
        assert (third.outcome, third.task.task_id) == (REPLACED, second.task.task_id)
        kept = await api.send(request(run("d"), queue=queue, job_key=key, job_key_mode=DEDUPE))
        assert (kept.outcome, kept.task.task_id) == (KEPT, second.task.task_id)
        assert worker.untaken == []
        await worker.acked(held.lease_token)
        successor = await worker.task()
        assert successor.task_id == second.task.task_id
        message = tasks_pb2.RunFinished()
        successor.payload.Unpack(message)
        assert message.id == "c"


async def test_a_successor_that_is_not_due_is_scheduled_when_the_lease_ends(
    api: Api, sql: Inspector, queue: str, key: str
) -> None:
    await api.send(request(run("a"), queue=queue, job_key=key))
    (lease,) = await api.take(queue)
    second = await api.send(request(run("b"), queue=queue, job_key=key, delay=seconds(3600)))
    await api.ack(lease.lease_token)
    assert await sql.state(second.task.task_id) == "scheduled"


@pytest.mark.parametrize(
    ("ending", "state"),
    [("fail", "dead"), ("release", "cancelled"), ("snooze", "cancelled")],
)
async def test_a_job_with_a_successor_never_runs_again(
    api: Api, sql: Inspector, queue: str, key: str, ending: str, state: str
) -> None:
    first = await api.enqueue(run("a"), queue=queue, job_key=key)
    async with api.worker(queue) as worker:
        held = await worker.task()
        second = await api.enqueue(run("b"), queue=queue, job_key=key)
        if ending == "fail":
            await api.fail(held.lease_token, error=task_pb2.TaskError(type="Broken"))
        elif ending == "release":
            await api.release(held.lease_token)
        else:
            await api.snooze(held.lease_token, 1)
        assert (await worker.task()).task_id == second.task_id
    assert await sql.state(first.task_id) == state


async def test_a_successor_follows_a_lost_lease(
    api: Api, sql: Inspector, queue: str, key: str
) -> None:
    first = await api.enqueue(run("a"), queue=queue, job_key=key)
    # Long enough for the successor to come while it lives.
    await api.take(queue, lease_duration=3)
    second = await api.enqueue(run("b"), queue=queue, job_key=key)
    async with api.worker(queue) as worker:
        assert (await worker.task()).task_id == second.task_id
    assert await sql.state(first.task_id) == "dead"


async def test_a_successor_waits_for_its_concurrency_key_too(
    api: Api, sql: Inspector, queue: str, key: str
) -> None:
    await api.enqueue(run("a"), queue=queue, job_key=key)
    (held,) = await api.take(queue)
    await api.enqueue(run("x"), queue=queue, concurrency_key=key)
    (other,) = await api.take(queue)
    second = await api.enqueue(run("b"), queue=queue, job_key=key, concurrency_key=key)
    await api.ack(held.lease_token)
    assert await sql.state(second.task_id) == "blocked"
    await api.ack(other.lease_token)
    (last,) = await api.take(queue)
    assert last.task_id == second.task_id


async def test_a_concurrency_key_with_room_does_not_let_a_successor_pass(
    api: Api, sql: Inspector, queue: str, key: str
) -> None:
    shared: dict[str, Any] = {"queue": queue, "concurrency_key": key, "concurrency_limit": 5}
    await api.enqueue(run("a"), job_key=key, **shared)
    (held,) = await api.take(queue)
    second = await api.enqueue(run("b"), job_key=key, **shared)
    # Ending another task of the concurrency key admits those that wait for it.
    await api.enqueue(run("x"), **shared)
    (other,) = await api.take(queue)
    await api.ack(other.lease_token)
    assert await sql.state(second.task_id) == "blocked"
    await api.ack(held.lease_token)
    (last,) = await api.take(queue)
    assert last.task_id == second.task_id


async def test_replacing_gives_the_old_concurrency_key_to_the_next(
    api: Api, queue: str, key: str
) -> None:
    await api.enqueue(run("a"), queue=queue, job_key=key, concurrency_key=key)
    waiting = await api.enqueue(run("b"), queue=queue, concurrency_key=key)
    await api.enqueue(run("c"), queue=queue, job_key=key, delay=seconds(3600))
    (lease,) = await api.take(queue)
    assert lease.task_id == waiting.task_id


@pytest.mark.parametrize("ending", ["succeeded", "dead"])
async def test_a_finished_job_holds_no_key(api: Api, queue: str, key: str, ending: str) -> None:
    first = await api.enqueue(run("a"), queue=queue, job_key=key)
    (lease,) = await api.take(queue)
    if ending == "succeeded":
        await api.ack(lease.lease_token)
    else:
        await api.fail(lease.lease_token, permanent=True)
    second = await api.send(request(run("b"), queue=queue, job_key=key, job_key_mode=DEDUPE))
    assert second.outcome == CREATED
    assert second.task.task_id != first.task_id


async def test_a_repeated_request_is_answered_like_the_first(
    api: Api, queue: str, key: str
) -> None:
    """Even if others have changed the job since: a repeat must not bring old content back."""
    first = await api.enqueue(run("a"), queue=queue, job_key=key, delay=seconds(60))
    again = request(
        run("b"), task_id=str(uuid.uuid4()), queue=queue, job_key=key, delay=seconds(60)
    )
    assert (await api.send(again)).outcome == REPLACED
    await api.enqueue(run("c"), queue=queue, job_key=key, delay=seconds(60))
    repeat = await api.send(again)
    assert (repeat.outcome, repeat.task.task_id) == (REPLACED, first.task_id)
    assert payload_id(repeat.task) == "c"


async def test_a_repeat_of_what_made_the_job_changes_nothing(
    api: Api, queue: str, key: str
) -> None:
    again = request(run("a"), task_id=str(uuid.uuid4()), queue=queue, job_key=key)
    first = await api.send(again)
    await api.enqueue(run("b"), queue=queue, job_key=key)
    repeat = await api.send(again)
    assert (first.outcome, repeat.outcome) == (CREATED, EXISTED)
    assert payload_id(repeat.task) == "b"
    (lease,) = await api.take(queue)
    await api.ack(lease.lease_token)
    late = await api.send(again)
    assert (late.outcome, late.task.state) == (EXISTED, task_pb2.TASK_STATE_SUCCEEDED)


async def test_items_of_one_batch_follow_each_other(
    api: Api, sql: Inspector, queue: str, key: str
) -> None:
    results = await api.batch(
        [
            request(run("a"), queue=queue, job_key=key),
            request(run("plain"), queue=queue),
            request(run("b"), queue=queue, job_key=key),
            request(run("c"), queue=queue, job_key=key, job_key_mode=DEDUPE),
            request(run(""), queue=queue, job_key=key),
        ]
    )
    assert [result.outcome for result in results] == [CREATED, CREATED, REPLACED, KEPT, 0]
    assert results[4].HasField("error")
    assert results[0].task_id == results[2].task_id == results[3].task_id
    leases = await api.take(queue)
    names = []
    for lease in leases:
        message = tasks_pb2.RunFinished()
        lease.payload.Unpack(message)
        names.append(message.id)
    assert sorted(names) == ["b", "plain"]


async def test_removed_by_its_key_a_job_is_cancelled(
    api: Api, sql: Inspector, queue: str, key: str
) -> None:
    task = await api.enqueue(run("a"), queue=queue, job_key=key)
    await sql.rows("select * from workerqueue.remove_by_job_key(%s)", key)
    assert await sql.state(task.task_id) == "cancelled"
    assert (await api.send(request(run("b"), queue=queue, job_key=key))).outcome == CREATED


async def test_removed_while_leased_a_job_goes_on_and_is_not_retried(
    api: Api, sql: Inspector, queue: str, key: str
) -> None:
    task = await api.enqueue(run("a"), queue=queue, job_key=key)
    (lease,) = await api.take(queue)
    successor = await api.enqueue(run("b"), queue=queue, job_key=key)
    (removed,) = await sql.rows(
        "select cancelled, released from workerqueue.remove_by_job_key(%s)", key
    )
    assert str(removed["cancelled"]) == successor.task_id
    assert str(removed["released"]) == task.task_id
    assert await sql.state(successor.task_id) == "cancelled"
    await api.heartbeat(lease.lease_token)
    await api.fail(lease.lease_token, error=task_pb2.TaskError(type="Broken"))
    assert await sql.state(task.task_id) == "dead"


async def test_bad_keys_are_refused(api: Api, queue: str) -> None:
    async def fields(**options: Any) -> dict[str, str]:
        refusal = await refused(api.send(request(run("a"), queue=queue, **options)))
        assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT
        return refusal.fields

    assert "options.job_key" in await fields(job_key="é" * 257)
    assert "options.job_key" in await fields(job_key="a\x00b")
    assert "options.job_key_mode" in await fields(job_key="a", job_key_mode=99)
    unique = worker_queue_pb2.Unique(by_args=True)
    assert "options.unique" in await fields(job_key="a", unique=unique)


async def test_the_dynamic_form_takes_job_keys(api: Api, queue: str, key: str) -> None:
    first = await api.send(dynamic("runFinished", {"id": "a"}, queue=queue, job_key=key))
    second = await api.send(dynamic("runFinished", {"id": "b"}, queue=queue, job_key=key))
    assert (first.outcome, second.outcome) == (CREATED, REPLACED)
    assert second.task.payload == packed(run("b"))


async def test_an_open_transaction_on_a_key_holds_up_nobody_else(
    api: Api, sql: Inspector, queue: str, key: str
) -> None:
    """The key's own callers are asked to try again; others, and the holder's worker, go on."""
    task = await api.enqueue(run("a"), queue=queue, job_key=key, delay=seconds(3600))
    async with sql.connection.transaction():
        await sql.rows("select 1 from workerqueue.tasks where id = %s for update", task.task_id)
        refusal = await refused(api.send(request(run("b"), queue=queue, job_key=key)))
        assert refusal.code == grpc.StatusCode.UNAVAILABLE
        assert refusal.reason == "KEY_BUSY"
        assert refusal.retry_seconds is not None
        batch = [
            request(run("x"), queue=queue, job_key=key + "-x"),
            request(run("y"), queue=queue, job_key=key),
        ]
        assert (await refused(api.batch(batch))).reason == "KEY_BUSY"
        other = await api.send(request(run("z"), queue=queue, job_key=key + "-z"))
        assert other.outcome == CREATED
    assert (await api.send(request(run("b"), queue=queue, job_key=key))).outcome == REPLACED
    # The batch was refused as a whole.
    assert (
        await sql.value("select count(*) from workerqueue.tasks where job_key = %s", key + "-x")
        == 0
    )


async def test_a_stuck_successor_is_found(api: Api, sql: Inspector, queue: str, key: str) -> None:
    """As after a crash between the end of a lease and what follows it."""
    await api.enqueue(run("a"), queue=queue, job_key=key)
    await api.take(queue)
    second = await api.enqueue(run("b"), queue=queue, job_key=key)
    await sql.rows("delete from workerqueue.tasks where job_key = %s and state = 'leased'", key)

    async def passed() -> bool:
        return await sql.state(second.task_id) == "available"

    await eventually(passed, "the successor becomes available")


async def test_rescheduling(api: Api, sql: Inspector, queue: str) -> None:
    task = await api.enqueue(run("a"), queue=queue, delay=seconds(3600))
    soon = datetime.now(UTC) + timedelta(seconds=0.3)
    (row,) = await sql.rows(
        "select outcome, wait_ms from workerqueue.reschedule_task(%s, %s)", task.task_id, soon
    )
    assert row["outcome"] == "done"
    assert 0 < row["wait_ms"] < 10_000
    async with api.worker(queue) as worker:
        lease = await worker.task()
        (row,) = await sql.rows(
            "select outcome, state::text from workerqueue.reschedule_task(%s, null)", task.task_id
        )
        assert (row["outcome"], row["state"]) == ("wrong_state", "leased")
        await worker.acked(lease.lease_token)
    (row,) = await sql.rows(
        "select outcome, state::text from workerqueue.reschedule_task(%s, null)", task.task_id
    )
    assert (row["outcome"], row["state"]) == ("wrong_state", "succeeded")
    (row,) = await sql.rows(
        "select outcome from workerqueue.reschedule_task(%s, null)", uuid.uuid4()
    )
    assert row["outcome"] == "not_found"


async def test_rescheduling_a_holder_admits_the_next(api: Api, sql: Inspector, queue: str) -> None:
    first = await api.enqueue(run("a"), queue=queue, concurrency_key=queue)
    second = await api.enqueue(run("b"), queue=queue, concurrency_key=queue)
    await sql.rows(
        "select * from workerqueue.reschedule_task(%s, now() + interval '1 hour')", first.task_id
    )
    (lease,) = await api.take(queue)
    assert lease.task_id == second.task_id
    await sql.rows("select * from workerqueue.reschedule_task(%s, null)", first.task_id)
    assert await sql.state(first.task_id) == "blocked"
