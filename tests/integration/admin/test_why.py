"""Why a task is not running: each reason, made true and then asked for."""

from __future__ import annotations

import uuid

import grpc

from tests.integration.admin.toolkit import Admin
from tests.sql import Inspector
from tests.toolkit import Api, eventually, refused, request, seconds
from workerqueue.v1 import queue_admin_pb2, task_admin_pb2, worker_admin_pb2
from workerqueue.v1.task_admin_pb2 import WhyTaskResponse


async def told(admin: Admin, task_id: str, reason: task_admin_pb2.WaitReason) -> WhyTaskResponse:
    """The answer, once it has that reason: sessions are known a moment after they begin."""

    async def probe() -> WhyTaskResponse | None:
        answer = await admin.why(task_id)
        return answer if answer.reason == reason else None

    try:
        answer: WhyTaskResponse = await eventually(
            probe, f"reason {task_admin_pb2.WaitReason.Name(reason)}"
        )
    except AssertionError:
        raise AssertionError(await admin.why(task_id)) from None
    assert answer.explanation.endswith(".")
    return answer


async def test_a_task_that_waits_for_a_time(api: Api, admin: Admin, queue: str) -> None:
    scheduled = await api.enqueue(queue=queue, delay=seconds(185))
    answer = await told(admin, scheduled.task_id, task_admin_pb2.WAIT_REASON_SCHEDULED)
    assert "is due in 3 m" in answer.explanation
    failing = await api.enqueue(queue=queue)
    (leased,) = await api.take(queue)
    running = await told(admin, failing.task_id, task_admin_pb2.WAIT_REASON_RUNNING)
    assert "worker one-shot" in running.explanation
    await api.fail(
        leased.lease_token, error={"type": "Boom", "message": "it\nbroke"}, retry_after=seconds(60)
    )
    retrying = await told(admin, failing.task_id, task_admin_pb2.WAIT_REASON_RETRYING)
    assert "Attempt 1 of 3 failed (Boom: it broke)" in retrying.explanation


async def test_a_task_that_is_finished(api: Api, admin: Admin, queue: str) -> None:
    dead = await admin.die(queue)
    answer = await told(admin, dead, task_admin_pb2.WAIT_REASON_FINISHED)
    assert "Boom: it broke" in answer.explanation
    assert "RetryTask" in answer.explanation
    for task_id, word in (
        ((await admin.cancel((await api.enqueue(queue=queue)).task_id)).task_id, "cancelled"),
        (await succeeded(api, queue), "succeeded"),
    ):
        answer = await told(admin, task_id, task_admin_pb2.WAIT_REASON_FINISHED)
        assert word in answer.explanation
    problem = await refused(
        admin.stub.WhyTask(task_admin_pb2.WhyTaskRequest(task_id=str(uuid.uuid4())))
    )
    assert problem.code == grpc.StatusCode.NOT_FOUND


async def succeeded(api: Api, queue: str) -> str:
    task = await api.enqueue(queue=queue)
    (leased,) = await api.take(queue)
    await api.ack(leased.lease_token)
    return task.task_id


async def test_a_task_that_waits_for_others(api: Api, admin: Admin, queue: str) -> None:
    holder = await api.enqueue(queue=queue, concurrency_key=queue)
    await api.enqueue(queue=queue, concurrency_key=queue)
    third = await api.enqueue(queue=queue, concurrency_key=queue)
    answer = await told(admin, third.task_id, task_admin_pb2.WAIT_REASON_CONCURRENCY_KEY)
    assert list(answer.waits_for_task_ids) == [holder.task_id]
    assert f"held by task {holder.task_id}; 1 task is ahead of it" in answer.explanation

    job = await api.enqueue(queue=f"{queue}-job", job_key=queue)
    await api.take(f"{queue}-job")
    successor = await api.enqueue(queue=f"{queue}-job", job_key=queue)
    answer = await told(admin, successor.task_id, task_admin_pb2.WAIT_REASON_JOB_KEY)
    assert list(answer.waits_for_task_ids) == [job.task_id]


async def test_a_task_that_nobody_takes(api: Api, admin: Admin, sql: Inspector, queue: str) -> None:
    task = await api.enqueue(queue=queue)
    async with api.worker(f"{queue}-other"), api.worker(queue, kinds=["startRun"]):
        answer = await told(admin, task.task_id, task_admin_pb2.WAIT_REASON_NO_WORKER)
        assert f"takes kind runFinished from queue {queue}" in answer.explanation
    await sql.rows(
        "insert into workerqueue.lanes (queue, kind, priority) values (%s, 'ghost', 0)", queue
    )
    await sql.rows(
        """
        update workerqueue.tasks set lane_id = (
          select lane_id from workerqueue.lanes where queue = %s and kind = 'ghost')
         where id = %s
        """,
        queue,
        task.task_id,
    )
    answer = await told(admin, task.task_id, task_admin_pb2.WAIT_REASON_UNKNOWN_KIND)
    assert "ghost" in answer.explanation


async def test_a_task_that_limits_hold(api: Api, admin: Admin, queue: str) -> None:
    await admin.update_queue(queue, max_in_flight=2, allow_missing=True)
    async with api.worker(queue) as worker:
        await api.ids([request(queue=queue) for _ in range(2)])
        await worker.tasks(2)
        task = await api.enqueue(queue=queue)
        answer = await told(admin, task.task_id, task_admin_pb2.WAIT_REASON_QUEUE_LIMIT)
        assert "2 of 2 tasks in flight" in answer.explanation
        await admin.update_queue(queue, max_in_flight=0, max_in_flight_per_worker=2)
        answer = await told(admin, task.task_id, task_admin_pb2.WAIT_REASON_WORKER_LIMIT)
        assert "holds 2 tasks" in answer.explanation
        await admin.stub.PauseQueue(queue_admin_pb2.PauseQueueRequest(queue=queue))
        answer = await told(admin, task.task_id, task_admin_pb2.WAIT_REASON_QUEUE_PAUSED)
        assert f"queue {queue} is paused" in answer.explanation


async def test_a_task_whose_workers_have_no_room(api: Api, admin: Admin, queue: str) -> None:
    name = f"worker-{queue}"
    async with api.worker(queue, window=1, worker_id=name) as worker:
        await api.enqueue(queue=queue)
        await worker.task()
        await api.ids([request(queue=queue) for _ in range(2)])
        last = await api.enqueue(queue=queue)
        answer = await told(admin, last.task_id, task_admin_pb2.WAIT_REASON_WORKERS_BUSY)
        assert "2 tasks are ahead of it" in answer.explanation
        await admin.stub.DrainWorker(worker_admin_pb2.DrainWorkerRequest(worker_id=name))
        answer = await told(admin, last.task_id, task_admin_pb2.WAIT_REASON_WORKERS_DRAINING)
        assert name in answer.explanation
