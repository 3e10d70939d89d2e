"""Broken streams, reconnecting, a server that drains, refusals, and the worker's own end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading

import grpc
import pytest

from tests.unit.client.conftest import Running
from tests.unit.client.peer import ACK, PATIENCE, Peer, Session, error_status, leased
from workerqueue import (
    AuthenticationError,
    CancelReason,
    InvalidRequestError,
    PermissionDeniedError,
    ProtocolError,
    SyncTaskContext,
    TaskContext,
    Worker,
    WorkerQueueError,
)
from workerqueue.tasks.v1.tasks_pb2 import StartRun
from workerqueue.v1 import lease_pb2

UNAVAILABLE = error_status(grpc.StatusCode.UNAVAILABLE)


def noop_worker(peer: Peer, **options: object) -> Worker:
    worker = Worker(peer.address, **options)  # type: ignore[arg-type]
    worker.register(StartRun, lambda payload: None)
    return worker


def waiting_worker(
    peer: Peer, **options: float
) -> tuple[Worker, asyncio.Queue[TaskContext], asyncio.Event]:
    """A worker whose handler reports its context and waits to be let go."""
    contexts: asyncio.Queue[TaskContext] = asyncio.Queue()
    go = asyncio.Event()
    worker = Worker(peer.address, **options)  # type: ignore[arg-type]

    @worker.handler(StartRun)
    async def handler(payload: StartRun, ctx: TaskContext) -> None:
        contexts.put_nowait(ctx)
        await go.wait()

    return worker, contexts, go


async def test_an_unconfirmed_ack_is_sent_again_after_a_break(peer: Peer, running: Running) -> None:
    peer.confirms = False
    async with running(noop_worker(peer)):
        first = await asyncio.to_thread(peer.session)
        task = leased(StartRun(id="a"))
        first.send_tasks(task)
        await asyncio.to_thread(first.wait, lambda s: s.acks)
        first.end(UNAVAILABLE)
        second = await asyncio.to_thread(peer.session)
        assert second.subscribe.held_lease_tokens == [task.lease_token]
        await asyncio.to_thread(second.wait, lambda s: s.acks)
        assert second.acks == first.acks
        second.confirm(task.lease_token, ACK)


async def test_a_confirmed_ack_is_not_sent_again(peer: Peer, running: Running) -> None:
    async with running(noop_worker(peer)) as task:
        first = await asyncio.to_thread(peer.session)
        first.send_tasks(leased(StartRun(id="a")))
        await asyncio.to_thread(first.wait, lambda s: s.acks)
        # A second task's ack proves that the result of the first was read before the break.
        first.send_tasks(leased(StartRun(id="b")))
        await asyncio.to_thread(first.wait, lambda s: len(s.acks) == 2)
        peer.confirms = False
        first.end(UNAVAILABLE)
        second = await asyncio.to_thread(peer.session)
        assert first.acks[0].lease_token not in second.subscribe.held_lease_tokens
        peer.confirms = True
        for ack in second.acks:
            second.confirm(ack.lease_token, ACK)
        assert not task.done()


async def test_running_work_survives_a_break(peer: Peer, running: Running) -> None:
    worker, contexts, go = waiting_worker(peer)
    async with running(worker):
        first = await asyncio.to_thread(peer.session)
        task = leased(StartRun(id="a"))
        first.send_tasks(task)
        context = await contexts.get()
        first.end()
        second = await asyncio.to_thread(peer.session)
        assert second.subscribe.held_lease_tokens == [task.lease_token]
        # Its clock was last moved on the stream that broke, so it is moved at once on this one.
        await asyncio.to_thread(second.wait, lambda s: s.heartbeats)
        go.set()
        await asyncio.to_thread(second.wait, lambda s: s.acks)
        assert not context.is_cancelled


async def test_held_leases_that_are_gone_are_cancelled(peer: Peer, running: Running) -> None:
    worker, contexts, go = waiting_worker(peer)
    async with running(worker):
        first = await asyncio.to_thread(peer.session)
        kept, lost = leased(StartRun(id="kept")), leased(StartRun(id="lost"))
        first.send_tasks(kept, lost)
        by_token = {
            context.lease_token: context for context in [await contexts.get() for _ in "ab"]
        }
        peer.welcomes = False
        first.end(UNAVAILABLE)
        second = await asyncio.to_thread(peer.session)
        second.send(welcome=peer.welcome(second, lost=(lost.lease_token,)))
        await by_token[lost.lease_token].cancelled.wait()
        assert by_token[lost.lease_token].cancel_reason is CancelReason.LEASE_LOST
        go.set()
        await asyncio.to_thread(second.wait, lambda s: s.acks)
        assert [ack.lease_token for ack in second.acks] == [kept.lease_token]
        assert not by_token[kept.lease_token].is_cancelled


async def test_a_lost_result_does_not_make_an_answered_lease_lost(
    peer: Peer, running: Running
) -> None:
    peer.confirms = False
    async with running(noop_worker(peer)):
        first = await asyncio.to_thread(peer.session)
        task = leased(StartRun(id="a"))
        first.send_tasks(task)
        await asyncio.to_thread(first.wait, lambda s: s.acks)
        peer.welcomes = False
        first.end(UNAVAILABLE)
        second = await asyncio.to_thread(peer.session)
        second.send(welcome=peer.welcome(second, lost=(task.lease_token,)))
        await asyncio.to_thread(second.wait, lambda s: s.acks)
        second.confirm(task.lease_token, ACK)


async def test_it_keeps_trying_while_the_server_is_away(peer: Peer, running: Running) -> None:
    peer.refusals = [UNAVAILABLE, error_status(grpc.StatusCode.INTERNAL, "INTERNAL")]
    async with running(noop_worker(peer)):
        session = await asyncio.to_thread(peer.session)
        session.send_tasks(leased(StartRun(id="a")))
        await asyncio.to_thread(session.wait, lambda s: s.acks)


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", InvalidRequestError),
        (grpc.StatusCode.UNAUTHENTICATED, "", AuthenticationError),
        (grpc.StatusCode.PERMISSION_DENIED, "", PermissionDeniedError),
        (grpc.StatusCode.FAILED_PRECONDITION, "PROTOCOL_VIOLATION", ProtocolError),
    ],
)
async def test_it_stops_when_the_server_will_never_take_it(
    peer: Peer, code: grpc.StatusCode, reason: str, expected: type[WorkerQueueError]
) -> None:
    peer.refusals = [error_status(code, reason)]
    with pytest.raises(expected):
        async with asyncio.timeout(PATIENCE):
            await noop_worker(peer).run_async()


async def test_a_draining_server_is_left_for_a_new_stream(peer: Peer, running: Running) -> None:
    worker, contexts, go = waiting_worker(peer)
    async with running(worker):
        first = await asyncio.to_thread(peer.session)
        task = leased(StartRun(id="a"))
        first.send_tasks(task)
        await contexts.get()
        first.send(drain=lease_pb2.Drain())
        second = await asyncio.to_thread(peer.session)
        assert second.subscribe.held_lease_tokens == [task.lease_token]
        await asyncio.to_thread(first.wait, lambda s: s.half_closed, "the first stream's end")
        assert first.windows == [0]
        go.set()
        await asyncio.to_thread(second.wait, lambda s: s.acks)
        assert first.acks == []


async def test_answers_on_their_way_to_a_draining_server_are_waited_for(
    peer: Peer, running: Running
) -> None:
    peer.confirms = False
    async with running(noop_worker(peer)):
        first = await asyncio.to_thread(peer.session)
        task = leased(StartRun(id="a"))
        first.send_tasks(task)
        await asyncio.to_thread(first.wait, lambda s: s.acks)
        first.send(drain=lease_pb2.Drain())
        second = await asyncio.to_thread(peer.session)
        await asyncio.to_thread(first.wait, lambda s: s.windows == [0])
        assert not first.half_closed
        first.confirm(task.lease_token, ACK)
        await asyncio.to_thread(first.wait, lambda s: s.half_closed, "the first stream's end")
        assert second.acks == []


async def test_while_no_successor_answers_the_draining_server_is_used(
    peer: Peer, running: Running
) -> None:
    worker, contexts, go = waiting_worker(peer)
    async with running(worker):
        first = await asyncio.to_thread(peer.session)
        first.send_tasks(leased(StartRun(id="a")))
        await contexts.get()
        peer.refusals = [UNAVAILABLE] * 1000
        first.send(drain=lease_pb2.Drain())
        go.set()
        await asyncio.to_thread(first.wait, lambda s: s.acks)


async def test_stopping_releases_what_has_not_started_and_finishes_the_rest(
    peer: Peer, running: Running
) -> None:
    worker, contexts, go = waiting_worker(peer, concurrency=1, prefetch=2)
    async with running(worker) as done:
        session = await asyncio.to_thread(peer.session)
        tasks = [leased(StartRun(id=str(n))) for n in range(3)]
        session.send_tasks(*tasks)
        await contexts.get()
        worker.stop()
        await asyncio.to_thread(session.wait, lambda s: s.drained and len(s.nacks) == 2)
        assert [nack.lease_token for nack in session.nacks] == [t.lease_token for t in tasks[1:]]
        assert {nack.WhichOneof("action") for nack in session.nacks} == {"release"}
        # One that was on its way when the server heard of the drain.
        late = leased(StartRun(id="late"))
        session.send_tasks(late)
        await asyncio.to_thread(session.wait, lambda s: len(s.nacks) == 3)
        assert session.nacks[2].WhichOneof("action") == "release"
        assert not done.done()
        go.set()
        await done
        assert [ack.lease_token for ack in session.acks] == [tasks[0].lease_token]


async def test_stopping_waits_until_the_last_answer_is_confirmed(
    peer: Peer, running: Running
) -> None:
    peer.confirms = False
    worker, contexts, go = waiting_worker(peer)
    async with running(worker) as done:
        first = await asyncio.to_thread(peer.session)
        task = leased(StartRun(id="a"))
        first.send_tasks(task)
        await contexts.get()
        worker.stop()
        go.set()
        await asyncio.to_thread(first.wait, lambda s: s.acks)
        first.end(UNAVAILABLE)
        second = await asyncio.to_thread(peer.session)
        assert second.subscribe.max_in_flight == 0
        await asyncio.to_thread(second.wait, lambda s: s.acks)
        assert not done.done()
        second.confirm(task.lease_token, ACK)
        await done


async def test_a_handler_that_runs_over_is_cancelled_and_its_task_tried_again(
    peer: Peer, running: Running
) -> None:
    worker, contexts, _ = waiting_worker(peer, shutdown_timeout=0.01)
    async with running(worker) as done:
        session = await asyncio.to_thread(peer.session)
        session.send_tasks(leased(StartRun(id="a")))
        context = await contexts.get()
        worker.stop()
        await done
    assert context.cancel_reason is CancelReason.SHUTDOWN
    fail = session.nacks[0].fail
    assert fail.error.type == "WorkerShutdown"
    assert fail.HasField("retry_after")
    assert fail.retry_after.ToNanoseconds() == 0
    assert not fail.permanent


async def test_a_handler_that_never_stops_does_not_hold_the_worker(
    peer: Peer, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workerqueue._worker.worker.CANCEL_GRACE_SECONDS", 0.05)
    started, release = threading.Event(), threading.Event()

    def deaf(payload: StartRun, ctx: SyncTaskContext) -> None:
        started.set()
        release.wait(PATIENCE)

    worker = Worker(peer.address, shutdown_timeout=0)
    worker.register(StartRun, deaf)
    async with running(worker) as done:
        session = await asyncio.to_thread(peer.session)
        session.send_tasks(leased(StartRun(id="a")))
        await asyncio.to_thread(started.wait, PATIENCE)
        worker.stop()
        await done
    release.set()
    assert session.nacks[0].fail.error.type == "WorkerShutdown"
    assert session.acks == []


async def test_cancelling_the_worker_answers_for_what_it_runs(peer: Peer) -> None:
    worker, contexts, _ = waiting_worker(peer)
    done = asyncio.create_task(worker.run_async())
    session = await asyncio.to_thread(peer.session)
    session.send_tasks(leased(StartRun(id="a")))
    await contexts.get()
    done.cancel()
    with pytest.raises(asyncio.CancelledError):
        await done
    assert session.nacks[0].fail.error.type == "WorkerShutdown"


async def test_an_event_of_the_caller_stops_it(peer: Peer) -> None:
    stop = asyncio.Event()
    worker = noop_worker(peer)
    done = asyncio.create_task(worker.run_async(stop))
    await asyncio.to_thread(peer.session)
    stop.set()
    async with asyncio.timeout(PATIENCE):
        await done
    with pytest.raises(RuntimeError, match="runs once"):
        await worker.run_async()


async def test_a_stop_before_the_start_counts(peer: Peer) -> None:
    worker = noop_worker(peer)
    worker.stop()
    async with asyncio.timeout(PATIENCE):
        await worker.run_async()


async def test_a_channel_of_the_caller_stays_open(peer: Peer, running: Running) -> None:
    with grpc.insecure_channel(peer.address) as channel:
        for _ in range(2):
            worker = Worker(channel)
            worker.register(StartRun, lambda payload: None)
            async with running(worker):
                session = await asyncio.to_thread(peer.session)
                session.send_tasks(leased(StartRun(id="a")))
                await asyncio.to_thread(session.wait, lambda s: s.acks)


async def test_workers_that_can_do_nothing_are_refused(peer: Peer) -> None:
    with pytest.raises(ValueError, match="no handler"):
        await Worker(peer.address).run_async()
    with pytest.raises(ValueError, match="no handler is registered for: stopVM"):
        await noop_worker(peer, kinds=["stopVM"]).run_async()
    with pytest.raises(ValueError, match="concurrency"):
        Worker(concurrency=0)
    with pytest.raises(TypeError, match="queues must be several"):
        Worker(queues="default")


SIGNALLED_WORKER = """
import sys, time
from workerqueue import SyncTaskContext, Worker
from workerqueue.tasks.v1.tasks_pb2 import StartRun
worker = Worker(sys.argv[1], shutdown_timeout=60)
@worker.handler(StartRun)
def handler(payload: StartRun, ctx: SyncTaskContext) -> None:
    print("started", flush=True)
    if payload.id == "long":
        ctx.wait_cancelled()
        ctx.raise_if_cancelled()
    sys.stdin.readline()
worker.run()
print("ended", flush=True)
"""


def spawn(peer: Peer, payload_id: str) -> tuple[subprocess.Popen[str], Session]:
    process = subprocess.Popen(
        [sys.executable, "-c", SIGNALLED_WORKER, peer.address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    session = peer.session()
    session.send_tasks(leased(StartRun(id=payload_id)))
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process, session


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(peer: Peer, number: signal.Signals) -> None:
    process, session = spawn(peer, "short")
    with process:
        process.send_signal(number)
        session.wait(lambda s: s.drained)
        assert process.stdin is not None
        process.stdin.write("finish\n")
        process.stdin.flush()
        assert process.wait(PATIENCE) == 0
    assert len(session.acks) == 1


def test_a_second_signal_cancels(peer: Peer) -> None:
    process, session = spawn(peer, "long")
    with process:
        process.send_signal(signal.SIGTERM)
        session.wait(lambda s: s.drained)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    assert session.nacks[0].fail.error.type == "WorkerShutdown"
