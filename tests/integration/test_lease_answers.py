"""Answers for leases: acks, nacks and heartbeats, their results, and what they do to the task."""

from __future__ import annotations

import uuid

import grpc

from tests.sql import Inspector
from tests.toolkit import ACK, HEARTBEAT, NACK, Api, packed, refused, request, seconds
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import lease_pb2

GARBAGE = b"\x07" * 24


async def test_every_answer_has_its_result(api: Api, queue: str) -> None:
    await api.ids([request(queue=queue) for _ in range(3)])
    async with api.worker(queue) as worker:
        one, two, three = await worker.tasks(3)
        await worker.send(
            acks=[lease_pb2.AckRequest(lease_token=one.lease_token)],
            nacks=[
                lease_pb2.NackRequest(lease_token=two.lease_token, fail=lease_pb2.Fail()),
                lease_pb2.NackRequest(lease_token=GARBAGE, release=lease_pb2.Release()),
                lease_pb2.NackRequest(lease_token=b"short", release=lease_pb2.Release()),
                lease_pb2.NackRequest(lease_token=three.lease_token),
            ],
            heartbeats=[
                lease_pb2.HeartbeatRequest(lease_token=three.lease_token),
                lease_pb2.HeartbeatRequest(lease_token=b""),
                lease_pb2.HeartbeatRequest(
                    lease_token=GARBAGE,
                    progress={"fraction": 1.5},
                ),
            ],
        )
        assert await worker.result(one.lease_token, ACK) is None
        assert await worker.result(two.lease_token, NACK) is None
        assert await worker.result(three.lease_token, HEARTBEAT) is None
        for token in (GARBAGE, b"short"):
            lost = await worker.result(token, NACK)
            assert lost is not None
            assert (lost.code, lost.reason) == (
                grpc.StatusCode.FAILED_PRECONDITION,
                "LEASE_LOST",
            )
        for token, operation, field in (
            (three.lease_token, NACK, "action"),
            (b"", HEARTBEAT, "lease_token"),
            (GARBAGE, HEARTBEAT, "progress.fraction"),
        ):
            problem = await worker.result(token, operation)
            assert problem is not None
            assert problem.code == grpc.StatusCode.INVALID_ARGUMENT
            assert problem.fields.keys() == {field}
        # One item's error is that item's: the stream goes on.
        await worker.acked(three.lease_token)


async def test_a_stale_token_changes_nothing(api: Api, queue: str, sql: Inspector) -> None:
    (task_id,) = await api.ids([request(queue=queue)])
    async with api.worker(queue) as worker:
        stale = (await worker.task()).lease_token
        await worker.fail(stale, retry_after=seconds(0))
        live = await worker.task()
        assert live.attempt == 2
        for call in (
            api.ack(stale),
            api.release(stale),
            api.snooze(stale, 1),
            api.heartbeat(stale),
            api.ack(live.lease_token[:16] + GARBAGE[:8]),
        ):
            problem = await refused(call)
            assert (problem.code, problem.reason) == (
                grpc.StatusCode.FAILED_PRECONDITION,
                "LEASE_LOST",
            )
        row = await sql.task(task_id)
        assert (row["state"], row["attempt"]) == ("leased", 2)
        # A repeat of the nack that ended the attempt is answered as the first one was.
        await api.fail(stale)
        assert await sql.state(task_id) == "leased"
        await worker.acked(live.lease_token)


async def test_a_repeated_ack_is_answered_like_the_first(api: Api, queue: str) -> None:
    await api.enqueue(queue=queue)
    async with api.worker(queue) as worker:
        token = (await worker.task()).lease_token
        await worker.acked(token)
        await worker.acked(token)
        await worker.ack(token, token)
        assert await worker.result(token) is None
        assert await worker.result(token) is None
        await api.ack(token)
        problem = await refused(api.fail(token))
        assert problem.reason == "LEASE_LOST"


async def test_the_result_of_the_first_ack_counts(api: Api, queue: str, sql: Inspector) -> None:
    task = await api.enqueue(queue=queue)
    (leased,) = await api.take(queue)
    await api.ack(leased.lease_token, tasks_pb2.RunFinished(id="first"))
    await api.ack(leased.lease_token, tasks_pb2.RunFinished(id="second"))
    stored = (await sql.task(task.task_id))["result"]
    assert stored == packed(tasks_pb2.RunFinished(id="first")).SerializeToString()


async def test_an_oversize_result_or_checkpoint_is_refused(
    api: Api, queue: str, sql: Inspector
) -> None:
    task = await api.enqueue(queue=queue)
    (leased,) = await api.take(queue)
    big = tasks_pb2.ScheduleEmail(html="x" * (1024 * 1024))
    for call, field in (
        (api.ack(leased.lease_token, big), "result"),
        (api.heartbeat(leased.lease_token, checkpoint=packed(big)), "checkpoint"),
    ):
        problem = await refused(call)
        assert (problem.reason, list(problem.fields)) == ("TOO_LARGE", [field])
    assert await sql.state(task.task_id) == "leased"


async def test_ack_and_heartbeat_of_one_lease_in_one_frame(
    api: Api, queue: str, sql: Inspector
) -> None:
    ids = await api.ids([request(queue=queue)] * 50)
    async with api.worker(queue) as worker:
        tokens = [task.lease_token for task in await worker.tasks(50)]
        await worker.send(
            acks=[lease_pb2.AckRequest(lease_token=token) for token in tokens],
            heartbeats=[lease_pb2.HeartbeatRequest(lease_token=token) for token in tokens],
        )
        for token in tokens:
            assert await worker.result(token, ACK) is None
            late = await worker.result(token, HEARTBEAT)
            assert late is None or late.reason == "LEASE_LOST"
        assert await sql.states(ids) == {"succeeded": 50}
        # What the worker itself finished is not cancelled on it.
        assert worker.cancellations == []


async def test_a_finished_lease_makes_room_when_acked_by_unary_call(api: Api, queue: str) -> None:
    await api.ids([request(queue=queue) for _ in range(2)])
    async with api.worker(queue, window=1) as worker:
        first = await worker.task()
        await api.ack(first.lease_token)
        await worker.task()


async def test_progress_and_checkpoint_reach_the_next_attempt(
    api: Api, queue: str, sql: Inspector
) -> None:
    task = await api.enqueue(queue=queue)
    (first,) = await api.take(queue)
    checkpoint = packed(tasks_pb2.RunFinished(id="page 7"))
    progress = {"fraction": 0.35, "message": "page 7 of 20\x00"}
    await api.heartbeat(first.lease_token, progress=progress, checkpoint=checkpoint)
    await api.heartbeat(first.lease_token)
    row = await sql.task(task.task_id)
    assert row["progress"] == 0.35
    assert row["progress_message"].startswith("page 7 of 20")
    await api.fail(first.lease_token, retry_after=seconds(0))
    async with api.worker(queue) as worker:
        second = await worker.task()
    assert (second.attempt, second.checkpoint) == (2, checkpoint)


async def test_a_heartbeat_moves_the_lease_but_never_past_the_deadline(
    api: Api, queue: str, sql: Inspector
) -> None:
    task = await api.enqueue(queue=queue, timeout=seconds(20), lease_duration=seconds(15))
    (leased,) = await api.take(queue)
    before = await sql.task(task.task_id)
    answer = await api.heartbeat(leased.lease_token)
    after = await sql.task(task.task_id)
    assert before["lease_expires_at"] < after["lease_expires_at"] <= after["attempt_deadline"]
    assert (
        answer.lease_expires_at.ToDatetime(after["started_at"].tzinfo)
        == (after["lease_expires_at"])
    )
    capped = await api.enqueue(queue=queue, timeout=seconds(20), lease_duration=seconds(60))
    (leased,) = await api.take(queue)
    await api.heartbeat(leased.lease_token)
    row = await sql.task(capped.task_id)
    assert row["lease_expires_at"] == row["attempt_deadline"]


async def test_a_token_of_the_right_length_for_no_task_is_lost(api: Api) -> None:
    token = uuid.uuid4().bytes + b"\x00" * 8
    for call in (api.ack(token), api.fail(token), api.heartbeat(token), api.release(token)):
        assert (await refused(call)).reason == "LEASE_LOST"
    problem = await refused(api.ack(b""))
    assert list(problem.fields) == ["lease_token"]
