"""A scope keeps producers and workers to their own queues and kinds."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import grpc
import pytest

from tests.integration.admin.toolkit import Admin
from tests.servers import ServerProcess
from tests.tokens import Tokens, connected_as
from tests.toolkit import HEARTBEAT, NACK, Api, Refusal, refusal, refused, request
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import lease_pb2, task_admin_pb2, worker_queue_pb2

OURS, THEIRS = "ours", "theirs"


def out_of_scope(answer: Refusal | None, *fields: str) -> None:
    """The wish was refused for its queue or kind."""
    assert answer is not None
    assert (answer.code, answer.reason) == (grpc.StatusCode.PERMISSION_DENIED, "OUT_OF_SCOPE")
    assert set(answer.fields) == set(fields)


@pytest.fixture
async def anybody(server: ServerProcess, tokens: Tokens) -> AsyncIterator[Api]:
    """Who may touch all tasks."""
    token = tokens.create("producer", "worker", "operator")
    async with connected_as(server.address, token) as api:
        yield api


@pytest.fixture
async def ours(server: ServerProcess, tokens: Tokens) -> AsyncIterator[Api]:
    """A producer and worker of one queue, and of all queues that begin with `our-`."""
    token = tokens.create("producer", "worker", queues=[OURS, "our-*"])
    async with connected_as(server.address, token) as api:
        yield api


async def test_a_producer_enqueues_its_queues_and_kinds_only(
    server: ServerProcess, tokens: Tokens
) -> None:
    token = tokens.create("producer", queues=[OURS, "our-*"], kinds=["runFinished", "events.*"])
    async with connected_as(server.address, token) as api:
        await api.enqueue(queue=OURS)
        await api.enqueue(queue="our-other")
        await api.enqueue(tasks_pb2.InvokeDispatcher(id="i", event_record_id="e"), queue=OURS)
        out_of_scope(await refused(api.enqueue(queue="our")), "options.queue")
        # Without a queue of its own a task goes to its kind's.
        out_of_scope(await refused(api.enqueue()), "options.queue")
        start = tasks_pb2.StartRun(id="r")
        out_of_scope(await refused(api.enqueue(start, queue=OURS)), "payload")
        out_of_scope(await refused(api.enqueue(start)), "options.queue", "payload")


async def test_an_item_of_a_batch_is_refused_alone(ours: Api) -> None:
    results = await ours.batch([request(queue=OURS), request(queue=THEIRS), request(queue=OURS)])
    assert [result.HasField("error") for result in results] == [False, True, False]
    out_of_scope(refusal(results[1].error), "options.queue")
    strict = await ours.batch([request(queue=OURS), request(queue=THEIRS)], all_or_nothing=True)
    assert [refusal(result.error).reason for result in strict] == ["BATCH_REFUSED", "OUT_OF_SCOPE"]


@pytest.mark.parametrize(
    ("subscribe", "fields"),
    [
        ({}, ["subscribe.queues"]),
        ({"queues": [THEIRS]}, ["subscribe.queues[0]"]),
        ({"queues": [OURS, "our-x", "ou"]}, ["subscribe.queues[2]"]),
    ],
)
async def test_a_subscription_names_queues_of_the_scope(
    ours: Api, subscribe: dict[str, list[str]], fields: list[str]
) -> None:
    call = ours.stub.Lease()
    await call.write(
        lease_pb2.LeaseRequest(
            subscribe=lease_pb2.Subscribe(worker_id="w", max_in_flight=1, **subscribe)  # type: ignore[arg-type]
        )
    )
    out_of_scope(await refused(call.read()), *fields)


async def test_a_subscription_names_kinds_of_the_scope(
    server: ServerProcess, tokens: Tokens
) -> None:
    token = tokens.create("worker", kinds=["runFinished"])
    async with connected_as(server.address, token) as api:
        out_of_scope(await refused(api.take(OURS)), "subscribe.kinds")
        wrong = api.take(OURS, kinds=["startRun"])
        out_of_scope(await refused(wrong), "subscribe.kinds[0]")
        assert await api.take("nothing-here", kinds=["runFinished"]) == []


async def test_a_worker_answers_for_leases_of_its_scope_whoever_holds_them(
    anybody: Api, ours: Api
) -> None:
    await anybody.ids([request(queue=OURS) for _ in range(4)])
    first, second, third, fourth = await anybody.take(OURS, 4)
    await ours.heartbeat(first.lease_token)
    await ours.ack(first.lease_token)
    # A repeat, too, although the task has ended.
    await ours.ack(first.lease_token)
    await ours.fail(second.lease_token)
    async with ours.worker(OURS, held_lease_tokens=[third.lease_token]) as worker:
        assert (await worker.welcome()).held_leases[0].alive
        await worker.acked(third.lease_token, fourth.lease_token)


async def test_a_lease_out_of_scope_is_no_lease_to_the_worker(anybody: Api, ours: Api) -> None:
    await anybody.enqueue(queue=THEIRS)
    (theirs,) = await anybody.take(THEIRS, 1)
    token = theirs.lease_token
    for call in (ours.ack(token), ours.fail(token), ours.heartbeat(token)):
        assert (await refused(call)).reason == "LEASE_LOST"
    await anybody.enqueue(queue=OURS)
    async with ours.worker(OURS, held_lease_tokens=[token]) as worker:
        assert not (await worker.welcome()).held_leases[0].alive
        own = (await worker.task()).lease_token
        await worker.send(
            acks=[lease_pb2.AckRequest(lease_token=t) for t in (token, own)],
            heartbeats=[lease_pb2.HeartbeatRequest(lease_token=token)],
        )
        assert await worker.result(own) is None
        lost = [await worker.result(token), await worker.result(token, HEARTBEAT)]
        await worker.fail(token)
        lost.append(await worker.result(token, NACK))
        assert [answer.reason for answer in lost if answer] == ["LEASE_LOST"] * 3
    # Nothing of that touched it.
    await anybody.ack(token)


async def test_a_task_out_of_scope_does_not_exist_for_a_producer(anybody: Api, ours: Api) -> None:
    admin, everything = Admin(ours), Admin(anybody)
    own = await ours.enqueue(queue=OURS)
    theirs = await anybody.enqueue(queue=THEIRS, job_key="their-job")
    missing = str(uuid.uuid4())
    assert (await admin.get(own.task_id)).task_id == own.task_id
    for task_id in (theirs.task_id, missing):
        watch = admin.stub.WatchTask(task_admin_pb2.WatchTaskRequest(task_id=task_id))
        for call in (admin.get(task_id), admin.cancel(task_id), watch.read()):
            answer = await refused(call)
            assert answer.reason == "TASK_NOT_FOUND"
            assert answer.message == f"there is no task {task_id}"
    await admin.cancel(own.task_id)
    remove = task_admin_pb2.RemoveByJobKeyRequest(job_key="their-job")
    assert not (await admin.stub.RemoveByJobKey(remove)).cancelled_task_id
    # Nothing of that touched it.
    await everything.cancel(theirs.task_id)


async def test_a_producer_cannot_reach_a_task_out_of_scope_by_its_keys(
    anybody: Api, ours: Api
) -> None:
    theirs = await anybody.enqueue(queue=THEIRS, job_key="shared-job")
    mine = request(queue=OURS, job_key="shared-job")
    out_of_scope(await refused(ours.send(mine)), "options.job_key")
    (result, other) = await ours.batch([mine, request(queue=OURS, job_key="own-job")])
    out_of_scope(refusal(result.error), "options.job_key")
    assert not other.HasField("error")
    again = request(queue=OURS, task_id=theirs.task_id)
    out_of_scope(await refused(ours.send(again)), "task_id")
    assert (await Admin(anybody).get(theirs.task_id)).queue == THEIRS
    unique = worker_queue_pb2.Unique(by_args=True)
    once = tasks_pb2.RunFinished(id="once")
    await anybody.enqueue(once, queue=THEIRS, unique=unique)
    out_of_scope(await refused(ours.enqueue(once, queue=OURS, unique=unique)), "options.unique")
