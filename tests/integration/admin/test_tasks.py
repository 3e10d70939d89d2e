"""What an operator does with one task."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from tests.integration.admin.toolkit import (
    AVAILABLE,
    BLOCKED,
    CANCELLED,
    DEAD,
    EXPIRED,
    LEASED,
    RETRYING,
    SCHEDULED,
    SUCCEEDED,
    Admin,
)
from tests.sql import Inspector
from tests.toolkit import NACK, Api, eventually, packed, refused, seconds
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import lease_pb2, task_admin_pb2, task_pb2


def keyed(run: str) -> tasks_pb2.PerformRunExecution:
    return tasks_pb2.PerformRunExecution(id=run)


async def test_a_task_is_shown_with_every_attempt(api: Api, admin: Admin, queue: str) -> None:
    task = await api.enqueue(queue=queue, tags=["red"], metadata={"from": "test"})
    shown = await admin.get(task.task_id)
    assert (shown.state, shown.attempt, list(shown.attempts)) == (AVAILABLE, 0, [])
    assert shown.payload == task.payload
    assert (list(shown.tags), dict(shown.metadata)) == (["red"], {"from": "test"})

    (first,) = await api.take(queue, 1, worker_id="w1")
    await api.fail(
        first.lease_token, error={"type": "E", "message": "m", "trace": "t"}, retry_after=seconds(0)
    )
    (second,) = await eventually(lambda: api.take(queue, 1, worker_id="w2"), "the second attempt")
    await api.heartbeat(
        second.lease_token,
        progress=task_pb2.Progress(fraction=0.5, message="half"),
        checkpoint=packed(tasks_pb2.RunFinished(id="at half")),
    )
    shown = await admin.get(task.task_id)
    assert (shown.state, shown.attempt, shown.worker_id) == (LEASED, 2, "w2")
    assert (shown.progress.fraction, shown.progress.message) == (0.5, "half")
    assert [(a.attempt, a.worker_id, a.outcome) for a in shown.attempts] == [
        (1, "w1", task_pb2.ATTEMPT_OUTCOME_FAILED),
        (2, "w2", task_pb2.ATTEMPT_OUTCOME_UNSPECIFIED),
    ]
    assert shown.attempts[0].error == task_pb2.TaskError(type="E", message="m", trace="t")
    assert not shown.attempts[1].HasField("finished_at")
    assert shown.HasField("lease_expires_at")

    await api.ack(second.lease_token, tasks_pb2.RunFinished(id="result"))
    shown = await admin.get(task.task_id)
    assert shown.state == SUCCEEDED
    assert shown.result == packed(tasks_pb2.RunFinished(id="result"))
    assert [a.outcome for a in shown.attempts] == [
        task_pb2.ATTEMPT_OUTCOME_FAILED,
        task_pb2.ATTEMPT_OUTCOME_SUCCEEDED,
    ]
    assert shown.attempts[1].finished_at == shown.finished_at
    assert not shown.HasField("lease_expires_at")


async def test_a_task_too_large_to_show_whole_is_shown_in_part(
    api: Api, admin: Admin, queue: str
) -> None:
    large = tasks_pb2.DeliverScheduled(id="x")
    large.payload.string_value = "p" * (2 * 1024 * 1024 - 1000)
    task = await api.enqueue(large, queue=queue)
    (leased,) = await api.take(queue, 1)
    block = packed(tasks_pb2.RunFinished(id="c" * (1024 * 1024 - 200)))
    await api.heartbeat(leased.lease_token, checkpoint=block)
    await api.stub.Ack(lease_pb2.AckRequest(lease_token=leased.lease_token, result=block))
    answer = await admin.stub.GetTask(task_admin_pb2.GetTaskRequest(task_id=task.task_id))
    assert "checkpoint" in answer.omitted_fields
    assert answer.task.payload == task.payload
    assert answer.task.result == block
    page = await admin.page(queues=[queue], view=task_admin_pb2.TASK_VIEW_FULL)
    assert page.tasks[0].result == block


@pytest.mark.parametrize("call", ["GetTask", "CancelTask", "RetryTask", "DeleteTask"])
async def test_an_unknown_or_malformed_id_is_refused(admin: Admin, call: str) -> None:
    method = getattr(admin.stub, call)
    request = getattr(task_admin_pb2, f"{call}Request")
    unknown = await refused(method(request(task_id=str(uuid.uuid4()))))
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "TASK_NOT_FOUND")
    for text in ("", "x", "{c0ffee00-0000-0000-0000-000000000000}"):
        wrong = await refused(method(request(task_id=text)))
        assert wrong.code == grpc.StatusCode.INVALID_ARGUMENT
        assert set(wrong.fields) == {"task_id"}


@pytest.mark.parametrize("wait", [None, 3600.0])
async def test_a_waiting_task_is_cancelled_for_good(
    api: Api, admin: Admin, queue: str, wait: float | None
) -> None:
    options: dict[str, Any] = {} if wait is None else {"delay": seconds(wait)}
    task = await api.enqueue(queue=queue, **options)
    shown = await admin.cancel(task.task_id, "no longer needed")
    assert (shown.state, shown.last_error.message) == (CANCELLED, "no longer needed")
    assert not shown.attempts
    assert await api.take(queue) == []
    assert (await admin.cancel(task.task_id)).state == CANCELLED


async def test_a_running_task_is_cancelled_and_its_worker_told(
    api: Api, admin: Admin, queue: str
) -> None:
    task = await api.enqueue(queue=queue)
    async with api.worker(queue) as worker:
        leased = await worker.task()
        shown = await admin.cancel(task.task_id)
        assert shown.state == CANCELLED
        assert [a.outcome for a in shown.attempts] == [task_pb2.ATTEMPT_OUTCOME_CANCELLED]
        reason = await worker.cancellation(leased.lease_token)
        assert reason == lease_pb2.CANCELLATION_REASON_CANCELLED
        await worker.ack(leased.lease_token)
        late = await worker.result(leased.lease_token)
        assert late is not None
        assert late.reason == "LEASE_LOST"
    assert await admin.state(task.task_id) == CANCELLED


async def test_the_next_of_a_key_runs_when_the_holder_is_cancelled_or_deleted(
    api: Api, admin: Admin, queue: str
) -> None:
    key = f"key-{queue}"
    tasks = [await api.enqueue(keyed("r"), queue=queue, concurrency_key=key) for _ in range(4)]
    async with api.worker(queue) as worker:
        first = await worker.task()
        await admin.cancel(first.task_id)
        second = await worker.task()
        assert second.task_id == tasks[1].task_id
        await admin.delete(second.task_id)
        third = await worker.task()
        assert third.task_id == tasks[2].task_id
        await admin.cancel(tasks[3].task_id)
        await worker.acked(third.lease_token)
        assert worker.untaken == []


@pytest.mark.parametrize("act", ["cancel", "delete"])
async def test_the_successor_of_a_job_runs_when_the_holder_is_gone(
    api: Api, admin: Admin, queue: str, act: str
) -> None:
    holder = await api.enqueue(queue=queue, job_key=f"job-{queue}")
    async with api.worker(queue) as worker:
        leased = await worker.task()
        assert leased.task_id == holder.task_id
        successor = await api.enqueue(queue=queue, job_key=f"job-{queue}")
        await (admin.cancel if act == "cancel" else admin.delete)(holder.task_id)
        assert (await worker.task()).task_id == successor.task_id


async def test_finished_tasks_are_not_cancelled(api: Api, admin: Admin, queue: str) -> None:
    task = await api.enqueue(queue=queue)
    (leased,) = await api.take(queue)
    await api.ack(leased.lease_token)
    problem = await refused(
        admin.stub.CancelTask(task_admin_pb2.CancelTaskRequest(task_id=task.task_id))
    )
    assert (problem.code, problem.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "WRONG_STATE",
    )
    assert problem.metadata == {"task_id": task.task_id, "state": "succeeded"}


async def test_a_dead_task_is_retried_with_its_history(api: Api, admin: Admin, queue: str) -> None:
    task_id = await admin.die(queue, max_attempts=1, metadata={"a": "b"})
    before = await admin.get(task_id)
    assert (before.state, before.attempt) == (DEAD, 1)
    async with api.worker(queue) as worker:
        shown = await admin.retry(task_id, attempts=2)
        assert (shown.max_attempts, dict(shown.metadata)) == (3, {"a": "b"})
        assert shown.payload == before.payload
        leased = await worker.task()
        assert (leased.task_id, leased.attempt) == (task_id, 2)
        await worker.acked(leased.lease_token)
    shown = await admin.get(task_id)
    assert (shown.state, [a.attempt for a in shown.attempts]) == (SUCCEEDED, [1, 2])
    problem = await refused(admin.stub.RetryTask(task_admin_pb2.RetryTaskRequest(task_id=task_id)))
    assert (problem.reason, problem.metadata["state"]) == ("WRONG_STATE", "succeeded")


async def test_cancelled_and_expired_tasks_are_retried(
    api: Api, admin: Admin, sql: Inspector, queue: str
) -> None:
    cancelled = await api.enqueue(queue=queue)
    await admin.cancel(cancelled.task_id)
    past = datetime.now(UTC) - timedelta(seconds=1)
    expired = await api.enqueue(queue=queue, delay=seconds(600), expire_at=past)

    async def is_expired() -> bool:
        return await admin.state(expired.task_id) == EXPIRED

    await eventually(is_expired, "the task expires")
    for task in (cancelled, expired):
        shown = await admin.retry(task.task_id)
        assert (shown.state, shown.HasField("expire_at")) == (AVAILABLE, False)
    taken = await api.take(queue)
    assert {task.task_id for task in taken} == {cancelled.task_id, expired.task_id}
    assert set(await sql.states([cancelled.task_id, expired.task_id])) == {"leased"}


async def test_waiting_tasks_run_at_once_when_retried(api: Api, admin: Admin, queue: str) -> None:
    async with api.worker(queue) as worker:
        scheduled = await api.enqueue(queue=queue, delay=seconds(3600))
        assert (await admin.get(scheduled.task_id)).state == SCHEDULED
        await admin.retry(scheduled.task_id)
        leased = await worker.task()
        assert leased.task_id == scheduled.task_id
        problem = await refused(
            admin.stub.RetryTask(task_admin_pb2.RetryTaskRequest(task_id=leased.task_id))
        )
        assert (problem.reason, problem.metadata["state"]) == ("WRONG_STATE", "leased")
        await worker.fail(leased.lease_token, retry_after=seconds(3600))
        assert await worker.result(leased.lease_token, NACK) is None
        assert await admin.state(scheduled.task_id) == RETRYING
        await admin.retry(scheduled.task_id)
        again = await worker.task()
        assert (again.task_id, again.attempt) == (scheduled.task_id, 2)


async def test_a_retried_task_waits_for_its_key(api: Api, admin: Admin, queue: str) -> None:
    key = f"key-{queue}"
    dead = await admin.die(queue, concurrency_key=key)
    async with api.worker(queue) as worker:
        await api.enqueue(queue=queue, concurrency_key=key)
        holder = await worker.task()
        assert (await admin.retry(dead)).state == BLOCKED
        await worker.acked(holder.lease_token)
        assert (await worker.task()).task_id == dead


async def test_a_retried_task_gives_way_to_a_live_one_with_its_keys(
    api: Api, admin: Admin, queue: str
) -> None:
    job = await admin.die(queue, job_key=f"job-{queue}")
    holder = await api.enqueue(queue=queue, job_key=f"job-{queue}")
    shown = await admin.retry(job)
    assert (shown.state, shown.job_key) == (AVAILABLE, "")
    assert (await admin.get(holder.task_id)).job_key == f"job-{queue}"


async def test_deleting_forgets_a_task_and_its_attempts(
    api: Api, admin: Admin, sql: Inspector, queue: str
) -> None:
    dead = await admin.die(queue)
    await admin.delete(dead)
    waiting = await api.enqueue(queue=queue)
    await admin.delete(waiting.task_id)
    running = await api.enqueue(queue=queue)
    async with api.worker(queue) as worker:
        leased = await worker.task()
        assert leased.task_id == running.task_id
        await admin.delete(running.task_id)
        reason = await worker.cancellation(leased.lease_token)
        assert reason == lease_pb2.CANCELLATION_REASON_CANCELLED
    for task_id in (dead, waiting.task_id, running.task_id):
        problem = await refused(admin.stub.GetTask(task_admin_pb2.GetTaskRequest(task_id=task_id)))
        assert problem.reason == "TASK_NOT_FOUND"
        assert await sql.attempts(task_id) == []
    again = await api.enqueue(queue=queue, task_id=dead)
    assert (again.task_id, again.state) == (dead, AVAILABLE)


async def test_a_task_is_rescheduled(api: Api, admin: Admin, queue: str) -> None:
    task = await api.enqueue(queue=queue)
    later = await admin.reschedule(task.task_id, delay=seconds(3600))
    assert later.state == SCHEDULED
    wait = later.run_at.ToDatetime(UTC) - later.created_at.ToDatetime(UTC)
    assert 3590 < wait.total_seconds() < 3700
    assert await api.take(queue) == []
    async with api.worker(queue) as worker:
        now = await admin.reschedule(task.task_id, delay=seconds(0))
        assert now.state in (AVAILABLE, LEASED)
        leased = await worker.task()
        problem = await refused(
            admin.stub.RescheduleTask(
                task_admin_pb2.RescheduleTaskRequest(task_id=task.task_id, delay=seconds(1))
            )
        )
        assert (problem.reason, problem.metadata["state"]) == ("WRONG_STATE", "leased")
        await worker.acked(leased.lease_token)
    problem = await refused(
        admin.stub.RescheduleTask(
            task_admin_pb2.RescheduleTaskRequest(task_id=task.task_id, priority=1)
        )
    )
    assert (problem.reason, problem.metadata["state"]) == ("WRONG_STATE", "succeeded")


async def test_priority_changes_the_order(api: Api, admin: Admin, queue: str) -> None:
    first, second, third = [await api.enqueue(queue=queue) for _ in range(3)]
    assert (await admin.reschedule(third.task_id, priority=7)).priority == 7
    taken = await api.take(queue)
    assert [t.task_id for t in taken] == [third.task_id, first.task_id, second.task_id]


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({}, "when"),
        ({"priority": 1001}, "priority"),
        ({"delay": seconds(-1)}, "delay"),
    ],
)
async def test_a_wrong_reschedule_is_refused(
    api: Api, admin: Admin, queue: str, fields: dict[str, object], wrong: str
) -> None:
    task = await api.enqueue(queue=queue)
    request = task_admin_pb2.RescheduleTaskRequest(task_id=task.task_id, **fields)  # type: ignore[arg-type]
    problem = await refused(admin.stub.RescheduleTask(request))
    assert problem.code == grpc.StatusCode.INVALID_ARGUMENT
    assert set(problem.fields) == {wrong}


async def test_a_job_is_removed_by_its_key(api: Api, admin: Admin, queue: str) -> None:
    request = task_admin_pb2.RemoveByJobKeyRequest(job_key=f"job-{queue}")
    problem = await refused(admin.stub.RemoveByJobKey(request))
    assert (problem.code, problem.reason) == (grpc.StatusCode.NOT_FOUND, "TASK_NOT_FOUND")
    waiting = await api.enqueue(queue=queue, job_key=f"job-{queue}")
    answer = await admin.stub.RemoveByJobKey(request)
    assert (answer.cancelled_task_id, answer.released_task_id) == (waiting.task_id, "")
    assert await admin.state(waiting.task_id) == CANCELLED

    running = await api.enqueue(queue=queue, job_key=f"job-{queue}")
    (leased,) = await api.take(queue)
    answer = await admin.stub.RemoveByJobKey(request)
    assert (answer.cancelled_task_id, answer.released_task_id) == ("", running.task_id)
    await api.ack(leased.lease_token)
    assert await admin.state(running.task_id) == SUCCEEDED


async def test_a_task_that_was_replaced_shows_the_attempts_before_and_after(
    admin: Admin, api: Api, queue: str
) -> None:
    first = await api.enqueue(queue=queue, job_key=queue)
    (leased,) = await api.take(queue, 1, worker_id="w1")
    await api.fail(leased.lease_token, retry_after=seconds(3600))
    # Takes the waiting task over and counts its attempts from 0 again.
    replaced = await api.enqueue(queue=queue, job_key=queue)
    assert replaced.task_id == first.task_id

    def seen(task: task_pb2.Task) -> list[tuple[int, str, int]]:
        return [(a.attempt, a.worker_id, a.outcome) for a in task.attempts]

    failed = (1, "w1", task_pb2.ATTEMPT_OUTCOME_FAILED)
    assert seen(await admin.get(first.task_id)) == [failed]
    (leased,) = await api.take(queue, 1, worker_id="w2")
    running = (1, "w2", task_pb2.ATTEMPT_OUTCOME_UNSPECIFIED)
    assert seen(await admin.get(first.task_id)) == [failed, running]
    await api.ack(leased.lease_token)
    succeeded = (1, "w2", task_pb2.ATTEMPT_OUTCOME_SUCCEEDED)
    assert seen(await admin.get(first.task_id)) == [failed, succeeded]
