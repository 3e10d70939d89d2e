"""A worker on nothing but the generated stubs, for the conformance kit.

The library `workerqueue.Worker` does all this and more; this file shows what a worker has to do in
a language that has no library. docs/worker-protocol.md explains each step.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2

from workerqueue.conformance.v1 import conformance_pb2
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import lease_pb2, task_pb2, worker_queue_pb2_grpc

KEEPALIVE = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
# Frames must stay under 4 MiB; an answer is at most a little over 1 MiB.
FRAME_BYTES = 2 * 1024 * 1024
FRAME_ANSWERS = 1_000
RETRYABLE = (
    code_pb2.UNAVAILABLE,
    code_pb2.RESOURCE_EXHAUSTED,
    code_pb2.DEADLINE_EXCEEDED,
    code_pb2.CANCELLED,
    code_pb2.UNKNOWN,
    code_pb2.INTERNAL,
)
REASONS = {
    lease_pb2.CANCELLATION_REASON_CANCELLED: "CANCELLED",
    lease_pb2.CANCELLATION_REASON_TIMED_OUT: "TIMED_OUT",
}

Answer = lease_pb2.AckRequest | lease_pb2.NackRequest
LeaseCall = grpc.aio.StreamStreamCall[lease_pb2.LeaseRequest, lease_pb2.LeaseResponse]


def say(event: str, task: lease_pb2.LeasedTask | None = None, **more: str) -> None:
    """Writes one line of the kit's contract."""
    about = {} if task is None else {"task_id": task.task_id, "attempt": task.attempt}
    sys.stdout.write(json.dumps({"event": event, **about, **more}) + "\n")
    sys.stdout.flush()


def pack(message: Message) -> Any:
    """The message in an Any."""
    packed = Any()
    packed.Pack(message)
    return packed


def to_seconds(duration: Duration) -> float:
    """A Duration as a number."""
    return float(duration.seconds + duration.nanos / 1e9)


@dataclass
class Lease:
    """A task that this worker holds."""

    task: lease_pb2.LeasedTask
    work: asyncio.Task[None] | None = None
    # The work is done, and the server has not confirmed the answer yet.
    answer: Answer | None = None
    checkpoint: Any | None = None
    checkpoint_stored: asyncio.Event = field(default_factory=asyncio.Event)
    next_heartbeat: float = 0.0


class Worker:
    """Holds leases, whatever happens to its streams."""

    def __init__(self, address: str, queue: str, worker_id: str, window: int) -> None:
        """``window``: how many tasks it handles at once."""
        self.address = address
        self.queue = queue
        self.worker_id = worker_id
        self.window = window
        self.leases: dict[bytes, Lease] = {}
        self.heartbeat_seconds = 10.0
        self.draining = False
        # What is to be written on the current stream.
        self.outgoing: list[Lease] = []
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Works until it has drained."""
        backoff = 0.5
        while not (self.draining and not self.leases):
            opened = time.monotonic()
            try:
                await self.stream()
            except grpc.aio.AioRpcError as error:
                if error.code() in (
                    grpc.StatusCode.INVALID_ARGUMENT,
                    grpc.StatusCode.FAILED_PRECONDITION,
                    grpc.StatusCode.UNAUTHENTICATED,
                    grpc.StatusCode.PERMISSION_DENIED,
                ):
                    raise
                sys.stderr.write(f"stream: {error.code().name}: {error.details()}\n")
            if time.monotonic() - opened > 10.0:
                backoff = 0.5
            await asyncio.sleep(random.uniform(0.0, backoff))
            backoff = min(5.0, backoff * 2)

    async def stream(self) -> None:
        """One stream, to its end. A new connection each time: the old server may be draining."""
        async with grpc.aio.insecure_channel(self.address, options=KEEPALIVE) as channel:
            call = worker_queue_pb2_grpc.WorkerQueueStub(channel).Lease()
            subscribe = lease_pb2.Subscribe(
                worker_id=self.worker_id,
                queues=[self.queue],
                max_in_flight=self.window,
                protocol_version=1,
                held_lease_tokens=list(self.leases),
            )
            await call.write(lease_pb2.LeaseRequest(subscribe=subscribe))
            writer: asyncio.Task[None] | None = None
            try:
                async for frame in call:
                    if frame.HasField("welcome"):
                        self.on_welcome(frame.welcome)
                        writer = asyncio.create_task(self.write(call))
                    self.on_frame(frame)
            finally:
                if writer is not None:
                    writer.cancel()
                    await asyncio.gather(writer, return_exceptions=True)

    async def write(self, call: LeaseCall) -> None:
        """Writes answers and heartbeats as they fall due."""
        said_drain = False
        while True:
            self.wake.clear()
            now = time.monotonic()
            frame = lease_pb2.LeaseRequest()
            while self.outgoing and len(frame.acks) + len(frame.nacks) < FRAME_ANSWERS:
                lease = self.outgoing.pop()
                if isinstance(lease.answer, lease_pb2.AckRequest):
                    frame.acks.append(lease.answer)
                    if lease.answer.result.ByteSize() > 1_000 and frame.ByteSize() > FRAME_BYTES:
                        break
                elif lease.answer is not None:
                    frame.nacks.append(lease.answer)
            for token, lease in self.leases.items():
                if lease.answer is None and lease.next_heartbeat <= now:
                    lease.next_heartbeat = now + self.heartbeat_interval(lease.task)
                    frame.heartbeats.add(lease_token=token, checkpoint=lease.checkpoint)
            if self.draining and not said_drain:
                frame.drain = said_drain = True
            if frame.ByteSize():
                await call.write(frame)
                continue
            due = min((x.next_heartbeat for x in self.leases.values()), default=now + 60.0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.01, due - now)):
                    await self.wake.wait()

    def heartbeat_interval(self, task: lease_pb2.LeasedTask) -> float:
        """A task's lease may be shorter than the interval of the welcome allows for."""
        return min(self.heartbeat_seconds, to_seconds(task.lease_duration) / 3)

    def on_welcome(self, welcome: lease_pb2.Welcome) -> None:
        """Settles what became of the leases held over from the last stream."""
        self.heartbeat_seconds = to_seconds(welcome.heartbeat_interval)
        for held in welcome.held_leases:
            lease = self.leases.get(held.lease_token)
            if lease is not None and not held.alive and lease.answer is None:
                self.lose(held.lease_token, "LEASE_LOST")
        # Unconfirmed answers go out again, and every lease shows at once that it is alive.
        self.outgoing = [lease for lease in self.leases.values() if lease.answer is not None]
        for lease in self.leases.values():
            lease.next_heartbeat = 0.0
        say("ready")

    def on_frame(self, frame: lease_pb2.LeaseResponse) -> None:
        """Whatever the server says."""
        for task in frame.tasks:
            lease = Lease(task, next_heartbeat=time.monotonic() + self.heartbeat_interval(task))
            self.leases[task.lease_token] = lease
            lease.work = asyncio.create_task(self.handle(lease))
        for result in frame.results:
            self.on_result(result)
        for cancellation in frame.cancellations:
            reason = REASONS.get(cancellation.reason, "LEASE_LOST")
            self.lose(cancellation.lease_token, reason)
        # frame.drain needs nothing: the server ends the stream when all is answered.
        self.wake.set()

    def on_result(self, result: lease_pb2.LeaseResult) -> None:
        """The server's answer to an ack, nack or heartbeat."""
        lease = self.leases.get(result.lease_token)
        if lease is None:
            return
        heartbeat = result.operation == lease_pb2.LEASE_OPERATION_HEARTBEAT
        if not result.HasField("error"):
            if heartbeat:
                if lease.checkpoint is not None:
                    lease.checkpoint_stored.set()
            else:
                del self.leases[result.lease_token]
                say("finished", lease.task)
        elif result.error.code not in RETRYABLE:
            # LEASE_LOST, or an answer that no repetition can mend.
            self.lose(result.lease_token, "LEASE_LOST")
        elif not heartbeat:
            asyncio.get_running_loop().call_later(1.0, self.send, lease)

    def lose(self, token: bytes, reason: str) -> None:
        """The lease is over: stop the work, answer nothing."""
        lease = self.leases.pop(token, None)
        if lease is not None:
            if lease.work is not None:
                lease.work.cancel()
            say("stopped", lease.task, reason=reason)

    def send(self, lease: Lease) -> None:
        """Puts an answer out, unless its lease is over."""
        if self.leases.get(lease.task.lease_token) is lease:
            self.outgoing.append(lease)
            self.wake.set()

    async def handle(self, lease: Lease) -> None:
        """Runs one task to its answer."""
        say("started", lease.task)
        text = read(lease.task.payload)
        if text is not None:
            report = conformance_pb2.Report(text=text, attempt=lease.task.attempt)
            lease.answer = lease_pb2.AckRequest(
                lease_token=lease.task.lease_token, result=pack(report)
            )
            self.send(lease)
            return
        script = conformance_pb2.Script()
        lease.task.payload.Unpack(script)
        turns: Iterable[conformance_pb2.Turn] = script.turns or [conformance_pb2.Turn()]
        *_, turn = list(turns)[: lease.task.attempt]
        if turn.checkpoint:
            lease.checkpoint = pack(conformance_pb2.Mark(text=turn.checkpoint))
            lease.next_heartbeat = 0.0
            self.wake.set()
            # The next attempt must find it, so the attempt does not end before it is stored.
            await lease.checkpoint_stored.wait()
        if work := to_seconds(turn.work):
            await asyncio.sleep(work)
        lease.answer = answer(lease.task, script, turn)
        self.send(lease)


def read(payload: Any) -> str | None:
    """What the kinds that are no Script ask for; None: it is a Script."""
    email, job = tasks_pb2.ScheduleEmail(), tasks_pb2.RegisterJob()
    order = conformance_pb2.Order()
    if payload.Unpack(email):
        return f"{email.to}: {email.subject}"
    if payload.Unpack(job):
        return f"{job.endpoint_id}: {job.job['name']}"
    if payload.Unpack(order):
        total = sum(line.count * line.cents for line in order.lines)
        return f"{order.number}: {total}"
    return None


def answer(
    task: lease_pb2.LeasedTask, script: conformance_pb2.Script, turn: conformance_pb2.Turn
) -> Answer:
    """How the attempt ends."""
    if turn.HasField("fail"):
        fail = lease_pb2.Fail(
            error=task_pb2.TaskError(type="ScriptedFailure", message=turn.fail.message),
            permanent=turn.fail.permanent,
        )
        if turn.fail.HasField("retry_after"):
            fail.retry_after.CopyFrom(turn.fail.retry_after)
        return lease_pb2.NackRequest(lease_token=task.lease_token, fail=fail)
    report = conformance_pb2.Report(text=script.text, attempt=task.attempt)
    mark = conformance_pb2.Mark()
    if task.HasField("checkpoint") and task.checkpoint.Unpack(mark):
        report.checkpoint = mark.text
    return lease_pb2.AckRequest(lease_token=task.lease_token, result=pack(report))


async def main(worker_class: type[Worker] = Worker) -> None:
    """Runs the worker until standard input ends."""
    worker = worker_class(
        os.environ["WORKERQUEUE_ADDRESS"],
        os.environ["CONFORMANCE_QUEUE"],
        os.environ["CONFORMANCE_WORKER_ID"],
        int(os.environ["CONFORMANCE_WINDOW"]),
    )

    def drain() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            asyncio.get_running_loop().remove_reader(sys.stdin)
            worker.draining = True
            worker.wake.set()

    asyncio.get_running_loop().add_reader(sys.stdin, drain)
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main())
