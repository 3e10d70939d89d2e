"""The life of a Lease stream: subscribe, window, answers, half-close, drain, reconnect."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from tests.sql import Inspector
from tests.toolkit import (
    HEARTBEAT,
    Api,
    WorkerStream,
    eventually,
    packed,
    request,
    seconds,
)
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import lease_pb2

GARBAGE = b"\x07" * 24


async def refusal_of(api: Api, *frames: lease_pb2.LeaseRequest) -> object:
    stream = WorkerStream(api)
    await stream.open_raw(*frames)
    try:
        problem = await stream.end()
        assert problem is not None
        return problem.code, problem.reason, sorted(problem.fields)
    finally:
        await stream.cut()


def subscribe(**fields: object) -> lease_pb2.LeaseRequest:
    return lease_pb2.LeaseRequest(
        subscribe=lease_pb2.Subscribe(**{"worker_id": "w", **fields})  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("frame", "field"),
    [
        (subscribe(worker_id=""), "subscribe.worker_id"),
        (subscribe(worker_id="w" * 129), "subscribe.worker_id"),
        (subscribe(worker_id="a\nb"), "subscribe.worker_id"),
        (subscribe(queues=["fine", "not fine"]), "subscribe.queues[1]"),
        (subscribe(max_in_flight=-1), "subscribe.max_in_flight"),
        (subscribe(max_in_flight=100_001), "subscribe.max_in_flight"),
        (subscribe(held_lease_tokens=[b"t"] * 100_001), "subscribe.held_lease_tokens"),
        (subscribe(lease_duration=seconds(0.9)), "subscribe.lease_duration"),
        (subscribe(lease_duration=seconds(3601)), "subscribe.lease_duration"),
        (
            lease_pb2.LeaseRequest(subscribe=lease_pb2.Subscribe(worker_id="w"), max_in_flight=-1),
            "max_in_flight",
        ),
    ],
)
async def test_a_bad_subscription_is_refused_by_field(
    api: Api, frame: lease_pb2.LeaseRequest, field: str
) -> None:
    assert await refusal_of(api, frame) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELD",
        [field],
    )


async def test_an_unknown_kind_is_refused_with_its_place(api: Api) -> None:
    assert await refusal_of(api, subscribe(kinds=["startRun", "startRunn"])) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "UNKNOWN_KIND",
        ["subscribe.kinds[1]"],
    )


@pytest.mark.parametrize(
    "frames",
    [
        [lease_pb2.LeaseRequest(max_in_flight=1)],
        [subscribe(), subscribe()],
        [subscribe(protocol_version=2)],
    ],
    ids=["no subscribe first", "subscribe twice", "newer protocol"],
)
async def test_a_violation_of_the_protocol_ends_the_stream(
    api: Api, frames: list[lease_pb2.LeaseRequest]
) -> None:
    assert await refusal_of(api, *frames) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "PROTOCOL_VIOLATION",
        [],
    )


async def test_a_stream_without_any_frame_is_a_violation(api: Api) -> None:
    call = api.stub.Lease()
    await call.done_writing()
    assert await call.code() == grpc.StatusCode.FAILED_PRECONDITION


async def test_bytes_that_are_no_frame_are_refused_without_details_of_the_server(api: Api) -> None:
    raw: Any = api.channel.stream_stream("/workerqueue.v1.WorkerQueue/Lease")
    call = raw(iter([b"\xff\xff\xff"]))
    assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "workerqueue.v1.LeaseRequest" in (await call.details() or "")


async def test_a_bad_window_later_ends_the_stream_by_field(api: Api, queue: str) -> None:
    async with api.worker(queue) as worker:
        await worker.send(max_in_flight=100_001)
        problem = await worker.end()
        assert problem is not None
        assert problem.fields.keys() == {"max_in_flight"}


async def test_the_welcome_says_who_and_how(api: Api, queue: str) -> None:
    async with api.worker([queue, "executions"], window=7, lease_duration=6) as worker:
        welcome = await worker.welcome()
    assert welcome.session_id
    assert welcome.server_id
    assert welcome.max_in_flight == 7
    assert welcome.protocol_version == 1
    assert welcome.heartbeat_interval.ToMilliseconds() == 2_000
    assert [(w.queue, w.max_in_flight) for w in welcome.queue_windows] == [("executions", 10)]


async def test_a_task_travels_with_everything_the_worker_needs(
    api: Api, queue: str, sql: Inspector
) -> None:
    message = tasks_pb2.RunFinished(id="run-1")
    stored = await api.enqueue(
        message,
        queue=queue,
        priority=7,
        max_attempts=5,
        timeout=seconds(12.5),
        lease_duration=seconds(4),
        concurrency_key="key",
        metadata={"trace": "a", "who": "ü"},
    )
    async with api.worker(queue) as worker:
        task = await worker.task()
        assert 0 < len(task.lease_token) <= 64
        assert task.task_id == stored.task_id
        assert task.kind == "runFinished"
        assert task.payload == packed(message)
        assert (task.attempt, task.max_attempts) == (1, 5)
        assert (task.queue, task.priority) == (queue, 7)
        assert task.timeout.ToMilliseconds() == 12_500
        assert task.lease_duration.ToMilliseconds() == 4_000
        assert task.created_at == stored.created_at
        assert dict(task.metadata) == {"trace": "a", "who": "ü"}
        assert task.concurrency_key == "key"
        assert not task.HasField("checkpoint")
        row = await sql.task(task.task_id)
        assert (row["state"], row["worker_id"]) == ("leased", worker.worker_id)
        await worker.acked(task.lease_token)
    assert await sql.state(task.task_id) == "succeeded"


async def test_the_streams_lease_duration_replaces_the_kinds(api: Api, queue: str) -> None:
    await api.enqueue(queue=queue, lease_duration=seconds(30))
    async with api.worker(queue, lease_duration=9) as worker:
        task = await worker.task()
        assert task.lease_duration.ToMilliseconds() == 9_000


async def test_the_window_is_never_exceeded_and_answers_make_room(
    api: Api, queue: str, sql: Inspector
) -> None:
    ids = await api.ids([request(queue=queue) for _ in range(7)])
    async with api.worker(queue, window=3) as worker:
        first = await worker.tasks(3)
        assert await api.take(queue, 1) != []  # More were available: only the window held them.
        await worker.ack(first[0].lease_token)
        await worker.fail(first[1].lease_token, retry_after=seconds(3600))
        await worker.tasks(2)
        assert worker.untaken == []
        assert (await sql.states(ids))["leased"] == 4


async def test_a_window_of_zero_pauses_and_raising_it_resumes(api: Api, queue: str) -> None:
    async with api.worker(queue, window=0) as worker:
        await api.ids([request(queue=queue) for _ in range(4)])
        # An answer proves that the server has looked at this stream since.
        assert await api.take(queue, 1) != []
        await worker.send(heartbeats=[lease_pb2.HeartbeatRequest(lease_token=GARBAGE)])
        assert await worker.result(GARBAGE, HEARTBEAT) is not None
        assert worker.received == []
        await worker.send(max_in_flight=2)
        first = await worker.tasks(2)
        await worker.send(max_in_flight=0)
        await worker.acked(*(task.lease_token for task in first))
        assert worker.untaken == []
        await worker.send(max_in_flight=1)
        await worker.task()


async def test_the_window_in_the_first_frame_overrides_the_subscription(
    api: Api, queue: str
) -> None:
    await api.ids([request(queue=queue) for _ in range(3)])
    stream = WorkerStream(api)
    frame = subscribe(queues=[queue], max_in_flight=3)
    frame.max_in_flight = 1
    await stream.open_raw(frame)
    try:
        assert (await stream.welcome()).max_in_flight == 1
        await stream.task()
        assert len(await api.take(queue)) == 2
    finally:
        await stream.cut()


async def test_lowering_the_window_below_what_is_held_only_stops_deliveries(
    api: Api, queue: str
) -> None:
    await api.ids([request(queue=queue) for _ in range(5)])
    async with api.worker(queue, window=3) as worker:
        held = await worker.tasks(3)
        await worker.send(max_in_flight=1)
        await worker.acked(held[0].lease_token, held[1].lease_token)
        assert worker.untaken == []
        await worker.acked(held[2].lease_token)
        await worker.task()


async def test_half_close_delivers_what_is_available_and_leases_stay_valid(
    api: Api, queue: str, sql: Inspector
) -> None:
    ids = await api.ids([request(queue=queue) for _ in range(5)])
    tasks = await api.take(queue, 4)
    assert [task.task_id for task in tasks] == ids[:4]
    assert (await sql.states(ids)) == {"leased": 4, "available": 1}
    await api.ack(tasks[0].lease_token)
    await api.fail(tasks[1].lease_token, permanent=True)
    await api.heartbeat(tasks[2].lease_token)
    await api.release(tasks[3].lease_token)
    assert await sql.states(ids) == {"succeeded": 1, "dead": 1, "leased": 1, "available": 2}
    assert await api.take(f"{queue}-nothing") == []


async def test_half_close_delivers_more_than_one_grant_brings(api: Api, queue: str) -> None:
    ids = [task_id for _ in range(2) for task_id in await api.ids([request(queue=queue)] * 5_000)]
    tasks = await api.take(queue, 20_000)
    assert {task.task_id for task in tasks} == set(ids)
    assert len(tasks) == len(ids)


async def test_answers_sent_before_half_close_are_answered(api: Api, queue: str) -> None:
    ids = await api.ids([request(queue=queue) for _ in range(200)])
    async with api.worker(queue, window=100) as worker:
        tasks = await worker.tasks(100)
        await worker.ack(*(task.lease_token for task in tasks))
        await worker.half_close()
        assert await worker.end() is None
        assert len(worker.results) == 100
        assert not any(result.HasField("error") for result in worker.results)
        assert {task.task_id for task in worker.received} == set(ids)


async def test_frames_fit_the_default_message_size(api: Api, queue: str) -> None:
    body = "x" * (1024 * 1024)
    message = tasks_pb2.ScheduleEmail(to="ada@example.com", subject="Hello", html=body)
    ids = [(await api.enqueue(message, queue=queue)).task_id for _ in range(9)]
    async with api.worker(queue) as worker:
        tasks = await worker.tasks(9)
        assert [task.task_id for task in tasks] == ids
        assert max(frame.ByteSize() for frame in worker.frames) < 4 * 1024 * 1024
        checkpoint = packed(tasks_pb2.ScheduleEmail(text="y" * (1024 * 1024 - 100)))
        await api.heartbeat(tasks[0].lease_token, checkpoint=checkpoint)
        await worker.fail(tasks[0].lease_token, retry_after=seconds(0))
        again = await worker.task()
        assert again.checkpoint == checkpoint


async def test_small_tasks_share_frames(api: Api, queue: str) -> None:
    await api.ids([request(queue=queue)] * 2_000)
    async with api.worker(queue, window=2_000) as worker:
        await worker.tasks(2_000)
        assert len([frame for frame in worker.frames if frame.tasks]) < 100


async def test_drain_by_the_worker_ends_the_stream_when_the_last_lease_is_answered(
    api: Api, queue: str
) -> None:
    await api.ids([request(queue=queue) for _ in range(3)])
    async with api.worker(queue, window=2) as worker:
        first, second = await worker.tasks(2)
        await worker.send(drain=True)
        await worker.acked(first.lease_token)
        assert not worker.ended
        await worker.ack(second.lease_token)
        assert await worker.end() is None
        assert await worker.result(second.lease_token) is None
        assert worker.untaken == []
    async with api.worker(f"{queue}-idle") as idle:
        await idle.send(drain=True)
        assert await idle.end() is None


async def test_a_broken_stream_does_not_revoke_leases_and_tokens_can_be_presented_again(
    api: Api, queue: str, sql: Inspector
) -> None:
    await api.ids([request(queue=queue) for _ in range(3)])
    async with api.worker(queue, window=2) as worker:
        finished, kept = await worker.tasks(2)
    await api.ack(finished.lease_token)
    assert await sql.state(kept.task_id) == "leased"
    tokens = [GARBAGE, kept.lease_token, finished.lease_token, b"short"]
    async with api.worker(
        queue, window=2, worker_id=worker.worker_id, held_lease_tokens=tokens
    ) as back:
        held = (await back.welcome()).held_leases
        assert [(lease.lease_token, lease.alive) for lease in held] == [
            (GARBAGE, False),
            (kept.lease_token, True),
            (finished.lease_token, False),
            (b"short", False),
        ]
        expires = (await sql.task(kept.task_id))["lease_expires_at"]
        assert held[1].lease_expires_at.ToDatetime(expires.tzinfo) == expires
        # The lease that is still held counts in the window: one more fits.
        last = await back.task()
        assert back.untaken == []
        await back.acked(kept.lease_token, last.lease_token)


async def test_a_lease_presented_on_a_new_stream_is_answered_there_while_the_old_one_lingers(
    api: Api, queue: str
) -> None:
    await api.ids([request(queue=queue) for _ in range(2)])
    async with api.worker(queue, window=1) as old:
        task = await old.task()
        async with api.worker(
            queue, window=1, worker_id=old.worker_id, held_lease_tokens=[task.lease_token]
        ) as new:
            # The old stream no longer holds it, so it has room.
            moved = await old.task()
            await new.acked(task.lease_token)
            await old.acked(moved.lease_token)
            assert old.cancellations == new.cancellations == []


async def test_a_cut_stream_gives_unwritten_leases_back_uncharged(
    api: Api, queue: str, sql: Inspector
) -> None:
    """A worker that does not read cannot swallow the queue: what never left the server returns."""
    body = tasks_pb2.ScheduleEmail(to="ada@example.com", subject="Hello", text="x" * 500_000)
    ids = [(await api.enqueue(body, queue=queue)).task_id for _ in range(40)]
    call = api.stub.Lease()
    await call.write(subscribe(queues=[queue], max_in_flight=40, lease_duration=seconds(60)))
    await eventually(
        lambda: _all_granted(sql, ids), "the server grants the window to a worker that is deaf"
    )
    call.cancel()
    # What went into buffers waits for its clock; the rest is back at once, as if never granted.
    await eventually(lambda: _some_returned(sql, ids), "unwritten leases are given back")
    rows = [await sql.task(task_id) for task_id in ids]
    assert {row["attempt"] for row in rows if row["state"] == "available"} == {0}


async def _all_granted(sql: Inspector, ids: list[str]) -> bool:
    return (await sql.states(ids)) == {"leased": len(ids)}


async def _some_returned(sql: Inspector, ids: list[str]) -> bool:
    return (await sql.states(ids)).get("available", 0) >= 10


async def test_many_streams_share_one_queue_without_doubles(api: Api, queue: str) -> None:
    count, each = 10, 50
    workers = [WorkerStream(api) for _ in range(count)]
    try:
        for worker in workers:
            await worker.open(queue, window=each)
        ids = await api.ids([request(queue=queue)] * (count * each))
        got = await asyncio.gather(*(worker.tasks(each) for worker in workers))
        seen = [task.task_id for tasks in got for task in tasks]
        assert sorted(seen) == sorted(ids)
    finally:
        for worker in workers:
            await worker.cut()
