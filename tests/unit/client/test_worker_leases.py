"""Windows, batches, heartbeats, cancellation, progress and checkpoints on one stream."""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import Any as AnyType

import grpc
import pytest
from google.protobuf.any_pb2 import Any

from tests.unit.client.conftest import Running
from tests.unit.client.peer import ACK, HEARTBEAT, PATIENCE, Peer, error_status, leased
from workerqueue import (
    CancelReason,
    LeaseLostError,
    SyncTaskContext,
    TaskCancelled,
    TaskContext,
    Worker,
)
from workerqueue.tasks.v1.tasks_pb2 import StartRun, StopVM
from workerqueue.v1 import lease_pb2

REASONS = [
    (lease_pb2.CANCELLATION_REASON_CANCELLED, CancelReason.CANCELLED),
    (lease_pb2.CANCELLATION_REASON_TIMED_OUT, CancelReason.TIMED_OUT),
    (lease_pb2.CANCELLATION_REASON_LEASE_LOST, CancelReason.LEASE_LOST),
]


async def test_the_subscription_says_what_the_worker_takes(peer: Peer, running: Running) -> None:
    worker = Worker(
        peer.address, queues=["a", "b"], concurrency=7, prefetch=3, worker_id="w", lease_duration=9
    )
    worker.register(StartRun, lambda payload: None)
    worker.register(StopVM, lambda payload: None)
    async with running(worker):
        session = await asyncio.to_thread(peer.session)
    expected = lease_pb2.Subscribe(
        worker_id="w",
        queues=["a", "b"],
        kinds=["startRun", "stopVM"],
        max_in_flight=10,
        protocol_version=1,
    )
    expected.lease_duration.FromSeconds(9)
    assert session.subscribe == expected


async def test_no_more_handlers_run_than_allowed(peer: Peer, running: Running) -> None:
    started: asyncio.Queue[str] = asyncio.Queue()
    go = asyncio.Event()
    at_once = most = 0

    async def handler(payload: StartRun) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        started.put_nowait(payload.id)
        await go.wait()
        at_once -= 1

    worker = Worker(peer.address, concurrency=2, prefetch=4)
    worker.register(StartRun, handler)
    async with running(worker):
        session = await asyncio.to_thread(peer.session)
        session.send_tasks(*(leased(StartRun(id=str(n))) for n in range(6)))
        assert [await started.get(), await started.get()] == ["0", "1"]
        go.set()
        await asyncio.to_thread(session.wait, lambda s: len(s.acks) == 6)
    assert most == 2


async def test_what_ends_together_travels_together(peer: Peer, running: Running) -> None:
    started = 0
    go = asyncio.Event()

    async def handler(payload: StartRun) -> None:
        nonlocal started
        started += 1
        if started == 500:
            go.set()
        await go.wait()

    worker = Worker(peer.address, concurrency=500)
    worker.register(StartRun, handler)
    async with running(worker):
        session = await asyncio.to_thread(peer.session)
        session.send_tasks(*(leased(StartRun(id=str(n))) for n in range(500)))
        await asyncio.to_thread(session.wait, lambda s: len(s.acks) == 500)
        # Gathered while the last frame was being written: a handful of frames, not hundreds.
        assert len([frame for frame in session.frames if frame.acks]) < 25


async def test_heartbeats_go_out_while_handlers_block_everything(
    peer: Peer, running: Running
) -> None:
    peer.heartbeat_seconds = 0.05
    release = threading.Event()
    in_thread = threading.Event()

    def sync_handler(payload: StopVM) -> None:
        in_thread.set()
        assert release.wait(PATIENCE)

    async def async_handler(payload: StartRun) -> None:
        # The event loop, and with it this test, stands still until the peer has seen enough.
        assert release.wait(PATIENCE)

    worker = Worker(peer.address, concurrency=2, prefetch=1)
    worker.register(StartRun, async_handler)
    worker.register(StopVM, sync_handler)
    tasks = [leased(StopVM(id="v")), leased(StartRun(id="a")), leased(StartRun(id="b"))]

    def script() -> None:
        session = peer.session()
        session.send_tasks(*tasks)
        session.wait(
            lambda s: all(
                sum(beat.lease_token == task.lease_token for beat in s.heartbeats) >= 3
                for task in tasks
            ),
            "three heartbeats for each lease, the waiting one included",
        )
        assert in_thread.is_set()
        release.set()
        session.wait(lambda s: len(s.acks) == 3)

    async with running(worker):
        await asyncio.to_thread(script)


@pytest.mark.parametrize(("sent", "expected"), REASONS)
async def test_an_async_handler_is_cancelled(
    peer: Peer,
    running: Running,
    sent: lease_pb2.CancellationReason,
    expected: CancelReason,
) -> None:
    started: asyncio.Future[TaskContext] = asyncio.get_running_loop().create_future()
    ended: asyncio.Future[CancelReason | None] = asyncio.get_running_loop().create_future()

    async def handler(payload: StartRun, ctx: TaskContext) -> None:
        started.set_result(ctx)
        assert not ctx.cancelled.is_set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert ctx.cancelled.is_set()
            ended.set_result(ctx.cancel_reason)
            raise

    worker = Worker(peer.address, concurrency=1)
    worker.register(StartRun, handler)
    async with running(worker):
        session = await asyncio.to_thread(peer.session)
        task = leased(StartRun(id="a"))
        session.send_tasks(task)
        await started
        session.cancel(task, sent)
        assert await ended is expected
        # The lease is over, so nothing is said about it, and its slot is free again.
        done = leased(StartRun(id="b"), kind="unknown")
        session.send_tasks(done)
        await asyncio.to_thread(session.wait, lambda s: s.nacks)
        assert [nack.lease_token for nack in session.nacks] == [done.lease_token]
        assert session.acks == []


async def test_a_sync_handler_hears_of_its_cancellation(peer: Peer, running: Running) -> None:
    reasons: asyncio.Queue[CancelReason] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    waiting = threading.Event()

    def handler(payload: StartRun, ctx: SyncTaskContext) -> None:
        ctx.raise_if_cancelled()
        waiting.set()
        assert ctx.wait_cancelled(PATIENCE)
        assert ctx.is_cancelled
        try:
            ctx.raise_if_cancelled()
        except TaskCancelled as cancelled:
            loop.call_soon_threadsafe(reasons.put_nowait, cancelled.reason)
            raise

    worker = Worker(peer.address)
    worker.register(StartRun, handler)
    async with running(worker):
        session = await asyncio.to_thread(peer.session)
        task = leased(StartRun(id="a"))
        session.send_tasks(task)
        await asyncio.to_thread(waiting.wait, PATIENCE)
        session.cancel(task, lease_pb2.CANCELLATION_REASON_TIMED_OUT)
        assert await reasons.get() is CancelReason.TIMED_OUT
    assert session.nacks == []


async def test_a_waiting_task_whose_lease_ends_is_never_started(
    peer: Peer, running: Running
) -> None:
    started: list[str] = []

    async def handler(payload: StartRun) -> None:
        started.append(payload.id)
        if payload.id == "0":
            await asyncio.Event().wait()

    worker = Worker(peer.address, concurrency=1, prefetch=3)
    worker.register(StartRun, handler)
    async with running(worker):
        session = await asyncio.to_thread(peer.session)
        first, second, third = (leased(StartRun(id=str(n))) for n in range(3))
        session.send_tasks(first, second, third, leased(StartRun(id="last")))
        session.cancel(second, lease_pb2.CANCELLATION_REASON_CANCELLED)
        lost = error_status(grpc.StatusCode.FAILED_PRECONDITION, "LEASE_LOST")
        session.confirm(third.lease_token, HEARTBEAT, lost)
        session.cancel(first, lease_pb2.CANCELLATION_REASON_CANCELLED)
        await asyncio.to_thread(session.wait, lambda s: s.acks)
    assert started == ["0", "last"]


async def test_a_handler_that_does_not_stop_shrinks_the_window(
    peer: Peer, running: Running
) -> None:
    waiting, stop = threading.Event(), threading.Event()

    def deaf(payload: StartRun) -> None:
        waiting.set()
        assert stop.wait(PATIENCE)

    worker = Worker(peer.address, concurrency=2)
    worker.register(StartRun, deaf)
    async with running(worker):
        session = await asyncio.to_thread(peer.session)
        task = leased(StartRun(id="a"))
        session.send_tasks(task)
        await asyncio.to_thread(waiting.wait, PATIENCE)
        session.cancel(task, lease_pb2.CANCELLATION_REASON_CANCELLED)
        await asyncio.to_thread(session.wait, lambda s: s.windows == [1])
        stop.set()
        await asyncio.to_thread(session.wait, lambda s: s.windows == [1, 2])


async def test_a_lost_lease_in_a_heartbeats_result_cancels(peer: Peer, running: Running) -> None:
    peer.confirms = False
    peer.heartbeat_seconds = 0.05
    ended: asyncio.Future[CancelReason | None] = asyncio.get_running_loop().create_future()

    async def handler(payload: StartRun, ctx: TaskContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set_result(ctx.cancel_reason)

    worker = Worker(peer.address)
    worker.register(StartRun, handler)
    async with running(worker):
        session = await asyncio.to_thread(peer.session)
        task = leased(StartRun(id="a"))
        session.send_tasks(task)
        await asyncio.to_thread(session.wait, lambda s: s.heartbeats)
        lost = error_status(grpc.StatusCode.FAILED_PRECONDITION, "LEASE_LOST")
        session.confirm(task.lease_token, HEARTBEAT, lost)
        assert await ended is CancelReason.LEASE_LOST


async def test_a_checkpoint_is_saved_when_the_server_says_so(peer: Peer, running: Running) -> None:
    peer.confirms = False
    saved: asyncio.Queue[str] = asyncio.Queue()

    async def handler(payload: StartRun, ctx: TaskContext) -> None:
        assert ctx.checkpoint(StopVM) == StopVM(id="from the last attempt")
        with pytest.raises(TypeError, match="StopVM, not a"):
            ctx.checkpoint(StartRun)
        ctx.progress(0.5, "half")
        await ctx.save_checkpoint(StopVM(id="half way"))
        saved.put_nowait("saved")

    worker = Worker(peer.address)
    worker.register(StartRun, handler)
    before = Any()
    before.Pack(StopVM(id="from the last attempt"))
    async with running(worker):
        session = await asyncio.to_thread(peer.session)
        task = leased(StartRun(id="a"), checkpoint=before)
        session.send_tasks(task)
        await asyncio.to_thread(
            session.wait, lambda s: [b for b in s.heartbeats if b.HasField("checkpoint")]
        )
        assert any(beat.progress.fraction == 0.5 for beat in session.heartbeats)
        assert saved.empty()
        for _ in session.heartbeats:
            session.confirm(task.lease_token, HEARTBEAT)
        assert await saved.get() == "saved"
        await asyncio.to_thread(session.wait, lambda s: s.acks)
        session.confirm(task.lease_token, ACK)


async def test_a_sync_handler_saves_a_checkpoint(peer: Peer, running: Running) -> None:
    def handler(payload: StartRun, ctx: SyncTaskContext) -> None:
        ctx.save_checkpoint(StopVM(id="x"), timeout=PATIENCE)

    worker = Worker(peer.address)
    worker.register(StartRun, handler)
    async with running(worker):
        session = await asyncio.to_thread(peer.session)
        session.send_tasks(leased(StartRun(id="a")))
        await asyncio.to_thread(session.wait, lambda s: s.acks)
    checkpoint = StopVM()
    assert session.heartbeats[0].checkpoint.Unpack(checkpoint)
    assert checkpoint.id == "x"


async def test_no_checkpoint_is_saved_for_a_lease_that_is_over(
    peer: Peer, running: Running
) -> None:
    outcomes: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
    waiting = threading.Event()

    def handler(payload: StartRun, ctx: SyncTaskContext) -> None:
        waiting.set()
        assert ctx.wait_cancelled(PATIENCE)
        try:
            ctx.save_checkpoint(StopVM(id="too late"), timeout=PATIENCE)
        except LeaseLostError as error:
            outcomes.put(error)

    worker = Worker(peer.address)
    worker.register(StartRun, handler)
    async with running(worker):
        session = await asyncio.to_thread(peer.session)
        task = leased(StartRun(id="a"))
        session.send_tasks(task)
        await asyncio.to_thread(waiting.wait, PATIENCE)
        session.cancel(task, lease_pb2.CANCELLATION_REASON_LEASE_LOST)
        await asyncio.to_thread(outcomes.get, timeout=PATIENCE)
    assert session.heartbeats == []


async def test_an_ack_the_server_cannot_take_now_is_repeated(
    peer: Peer, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workerqueue._worker.ledger.RETRY_SECONDS", 0.01)
    peer.confirms = False
    worker = Worker(peer.address)
    worker.register(StartRun, lambda payload: None)
    async with running(worker):
        session = await asyncio.to_thread(peer.session)
        task = leased(StartRun(id="a"))
        session.send_tasks(task)
        await asyncio.to_thread(session.wait, lambda s: len(s.acks) == 1)
        away = error_status(grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")
        session.confirm(task.lease_token, ACK, away)
        await asyncio.to_thread(session.wait, lambda s: len(s.acks) == 2)
        assert session.acks[0] == session.acks[1]
        session.confirm(task.lease_token, ACK)


async def test_an_ack_that_will_never_be_taken_becomes_a_failure(
    peer: Peer, running: Running
) -> None:
    peer.confirms = False

    async def handler(payload: StartRun) -> StopVM:
        return StopVM(id="x")

    worker = Worker(peer.address)
    worker.register(StartRun, handler)
    async with running(worker):
        session = await asyncio.to_thread(peer.session)
        task = leased(StartRun(id="a"))
        session.send_tasks(task)
        await asyncio.to_thread(session.wait, lambda s: s.acks)
        peer.confirms = True
        refused = error_status(grpc.StatusCode.INVALID_ARGUMENT, "TOO_LARGE")
        session.confirm(task.lease_token, ACK, refused)
        await asyncio.to_thread(session.wait, lambda s: s.nacks)
        assert session.nacks[0].fail.error.type == "ResultRefused"


async def test_the_context_tells_the_time_that_is_left(peer: Peer, running: Running) -> None:
    seen: asyncio.Future[AnyType] = asyncio.get_running_loop().create_future()

    async def handler(payload: StartRun, ctx: TaskContext) -> None:
        seen.set_result((ctx.timeout, ctx.lease_duration, ctx.time_left, dict(ctx.metadata)))

    worker = Worker(peer.address)
    worker.register(StartRun, handler)
    async with running(worker):
        session = await asyncio.to_thread(peer.session)
        session.send_tasks(leased(StartRun(id="a"), metadata={"k": "v"}))
        timeout, lease_duration, left, metadata = await seen
    assert (timeout, lease_duration, metadata) == (60.0, 30.0, {"k": "v"})
    assert 50 < left <= 60
