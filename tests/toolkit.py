"""A producer and a worker on nothing but the stubs, for tests that watch the wire.

Everything waits for what it is told to wait for, with one generous deadline; nothing sleeps.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.rpc import error_details_pb2, status_pb2

from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import lease_pb2, policy_pb2, task_pb2, worker_queue_pb2
from workerqueue.v1.worker_queue_pb2_grpc import WorkerQueueStub

DEADLINE_SECONDS = 60.0

ACK = lease_pb2.LEASE_OPERATION_ACK
NACK = lease_pb2.LEASE_OPERATION_NACK
HEARTBEAT = lease_pb2.LEASE_OPERATION_HEARTBEAT

T = TypeVar("T")


def seconds(value: float) -> Duration:
    """A Duration."""
    duration = Duration()
    duration.FromNanoseconds(round(value * 1_000_000_000))
    return duration


# The next attempt as soon as there can be one.
AT_ONCE = policy_pb2.RetryPolicy(
    initial_backoff=seconds(0.001), max_backoff=seconds(0.001), jitter=0
)


def packed(message: Message) -> AnyMessage:
    """The message in an Any."""
    result = AnyMessage()
    result.Pack(message)
    return result


def request(
    message: Message | None = None, *, task_id: str = "", **options: object
) -> worker_queue_pb2.EnqueueRequest:
    """A request for a task; without a message one of a kind that has no key and few rules."""
    made = worker_queue_pb2.EnqueueRequest(
        task_id=task_id, payload=packed(message or tasks_pb2.RunFinished(id="run"))
    )
    if options:
        made.options.CopyFrom(worker_queue_pb2.TaskOptions(**options))  # type: ignore[arg-type]
    return made


def dynamic(
    kind: str, args: dict[str, Any] | None = None, **options: object
) -> worker_queue_pb2.EnqueueRequest:
    """A request in the form for shells."""
    made = worker_queue_pb2.EnqueueRequest()
    made.dynamic.kind = kind
    if args is not None:
        made.dynamic.args.CopyFrom(Struct())
        made.dynamic.args.update(args)
    if options:
        made.options.CopyFrom(worker_queue_pb2.TaskOptions(**options))  # type: ignore[arg-type]
    return made


class Refusal:
    """What a call, an item or a frame's part was refused with."""

    def __init__(self, status: status_pb2.Status) -> None:
        self.status = status
        self.message: str = status.message
        self.code = next(c for c in grpc.StatusCode if c.value[0] == status.code)
        self.reason = ""
        self.metadata: dict[str, str] = {}
        self.fields: dict[str, str] = {}
        self.retry_seconds: float | None = None
        for detail in status.details:
            self._read(detail)

    def _read(self, detail: AnyMessage) -> None:
        info = error_details_pb2.ErrorInfo()
        bad = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            assert info.domain == "workerqueue"
            self.reason, self.metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(bad):
            self.fields = {v.field: v.description for v in bad.field_violations}
        elif detail.Unpack(retry):
            self.retry_seconds = retry.retry_delay.ToNanoseconds() / 1e9

    def __repr__(self) -> str:
        return f"<{self.code.name} {self.reason}: {self.message} {self.fields}>"


def refusal(error: grpc.aio.AioRpcError | status_pb2.Status) -> Refusal:
    """The parts of a status."""
    if isinstance(error, status_pb2.Status):
        return Refusal(error)
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            return Refusal(status_pb2.Status.FromString(value))
    # What gRPC itself says, such as a connection that is gone.
    return Refusal(status_pb2.Status(code=error.code().value[0], message=error.details() or ""))


async def refused(call: Any) -> Refusal:
    """The refusal that the call must end with."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return refusal(error)
    raise AssertionError(f"expected a refusal, got: {answer}")


async def within(awaitable: Any, limit: float = DEADLINE_SECONDS) -> Any:
    """The result, or TimeoutError after the limit."""
    async with asyncio.timeout(limit):
        return await awaitable


async def eventually(probe: Callable[[], Any], what: str, limit: float = DEADLINE_SECONDS) -> Any:
    """The first true result of the probe: for states that nobody announces."""
    try:
        async with asyncio.timeout(limit):
            while True:
                result = probe()
                if asyncio.iscoroutine(result):
                    result = await result
                if result:
                    return result
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {limit} s: {what}") from None


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Api]:
    """The API of a server, over a connection that is not shared with other tests."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 500)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield Api(channel)


class Api:
    """The calls of WorkerQueue."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.stub = WorkerQueueStub(channel)

    async def send(self, made: worker_queue_pb2.EnqueueRequest) -> worker_queue_pb2.EnqueueResponse:
        """Enqueues."""
        return await self.stub.Enqueue(made, timeout=DEADLINE_SECONDS)

    async def enqueue(
        self, message: Message | None = None, *, task_id: str = "", **options: object
    ) -> task_pb2.Task:
        """Enqueues a task; the task."""
        return (await self.send(request(message, task_id=task_id, **options))).task

    async def batch(
        self, requests: Sequence[worker_queue_pb2.EnqueueRequest], *, all_or_nothing: bool = False
    ) -> list[worker_queue_pb2.EnqueueBatchResult]:
        """Enqueues a batch."""
        answer = await self.stub.EnqueueBatch(
            worker_queue_pb2.EnqueueBatchRequest(tasks=requests, all_or_nothing=all_or_nothing),
            timeout=DEADLINE_SECONDS,
        )
        return list(answer.results)

    async def ids(self, requests: Sequence[worker_queue_pb2.EnqueueRequest]) -> list[str]:
        """Enqueues a batch of which nothing may be refused; the ids in order."""
        results = await self.batch(requests)
        assert not any(result.HasField("error") for result in results), results
        return [result.task_id for result in results]

    async def take(
        self,
        queue: str = "",
        count: int = 100,
        *,
        worker_id: str = "one-shot",
        kinds: Iterable[str] = (),
        lease_duration: float | None = None,
    ) -> list[lease_pb2.LeasedTask]:
        """What is available right now, up to so many: a stream that closes its half at once."""
        subscribe = lease_pb2.Subscribe(
            worker_id=worker_id,
            queues=[queue] if queue else [],
            kinds=kinds,
            max_in_flight=count,
            lease_duration=None if lease_duration is None else seconds(lease_duration),
        )
        call = self.stub.Lease(
            iter([lease_pb2.LeaseRequest(subscribe=subscribe)]), timeout=DEADLINE_SECONDS
        )
        return [task async for frame in call for task in frame.tasks]

    async def ack(self, token: bytes, result: Message | None = None) -> None:
        """Acks."""
        made = lease_pb2.AckRequest(lease_token=token)
        if result is not None:
            made.result.Pack(result)
        await self.stub.Ack(made, timeout=DEADLINE_SECONDS)

    async def fail(self, token: bytes, **fail: object) -> None:
        """Nacks with an error."""
        await self.stub.Nack(
            lease_pb2.NackRequest(lease_token=token, fail=lease_pb2.Fail(**fail)),  # type: ignore[arg-type]
            timeout=DEADLINE_SECONDS,
        )

    async def release(self, token: bytes) -> None:
        """Gives an unstarted task back."""
        await self.stub.Nack(
            lease_pb2.NackRequest(lease_token=token, release=lease_pb2.Release()),
            timeout=DEADLINE_SECONDS,
        )

    async def snooze(self, token: bytes, delay: float) -> None:
        """Puts a task off."""
        snooze = lease_pb2.Snooze(delay=seconds(delay))
        await self.stub.Nack(
            lease_pb2.NackRequest(lease_token=token, snooze=snooze), timeout=DEADLINE_SECONDS
        )

    async def heartbeat(self, token: bytes, **news: object) -> lease_pb2.HeartbeatResponse:
        """Prolongs a lease."""
        return await self.stub.Heartbeat(
            lease_pb2.HeartbeatRequest(lease_token=token, **news),  # type: ignore[arg-type]
            timeout=DEADLINE_SECONDS,
        )

    @asynccontextmanager
    async def worker(
        self, queue: str | Sequence[str] = (), window: int = 100, **subscribe: Any
    ) -> AsyncIterator[WorkerStream]:
        """A worker's open stream; cut at the end."""
        stream = WorkerStream(self)
        await stream.open(queue, window, **subscribe)
        try:
            yield stream
        finally:
            await stream.cut()


class WorkerStream:
    """One Lease stream. What arrives is kept; the methods wait until it is what they ask for."""

    def __init__(self, api: Api) -> None:
        self.worker_id = f"worker-{uuid.uuid4().hex[:8]}"
        self._call = api.stub.Lease()
        self._reader: asyncio.Task[None] | None = None
        self._news = asyncio.Condition()
        self.frames: list[lease_pb2.LeaseResponse] = []
        self.received: list[lease_pb2.LeasedTask] = []
        self.results: list[lease_pb2.LeaseResult] = []
        self.cancellations: list[lease_pb2.Cancellation] = []
        self.ended = False
        self.error: grpc.aio.AioRpcError | None = None
        self._taken = 0

    async def open(
        self, queue: str | Sequence[str] = (), window: int = 100, **subscribe: Any
    ) -> None:
        """Subscribes."""
        queues = [queue] if isinstance(queue, str) else list(queue)
        self.worker_id = subscribe.pop("worker_id", self.worker_id)
        lease_duration = subscribe.pop("lease_duration", None)
        first = lease_pb2.LeaseRequest(
            subscribe=lease_pb2.Subscribe(
                worker_id=self.worker_id,
                queues=queues,
                max_in_flight=window,
                lease_duration=None if lease_duration is None else seconds(lease_duration),
                **subscribe,
            )
        )
        await self.open_raw(first)
        await self.welcome()

    async def open_raw(self, *frames: lease_pb2.LeaseRequest) -> None:
        """Sends the frames as they are and begins to read."""
        self._reader = asyncio.create_task(self._read())
        for frame in frames:
            await self._call.write(frame)

    async def _read(self) -> None:
        try:
            async for frame in self._call:
                async with self._news:
                    self.frames.append(frame)
                    self.received += frame.tasks
                    self.results += frame.results
                    self.cancellations += frame.cancellations
                    self._news.notify_all()
        except grpc.aio.AioRpcError as error:
            self.error = error
        finally:
            async with self._news:
                self.ended = True
                self._news.notify_all()

    async def until(self, ready: Callable[[], T], what: str, limit: float = DEADLINE_SECONDS) -> T:
        """The first true value; fails when the stream ends or the limit passes before."""
        try:
            async with asyncio.timeout(limit), self._news:
                while True:
                    if value := ready():
                        return value
                    assert not self.ended, f"the stream ended before {what}: {self.error}"
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"not within {limit} s: {what}") from None

    async def welcome(self) -> lease_pb2.Welcome:
        """The server's welcome."""
        await self.until(lambda: self.frames, "a first frame")
        assert self.frames[0].HasField("welcome")
        return self.frames[0].welcome

    async def tasks(
        self, count: int = 1, limit: float = DEADLINE_SECONDS
    ) -> list[lease_pb2.LeasedTask]:
        """The next so many tasks."""
        start = self._taken
        await self.until(
            lambda: len(self.received) >= start + count,
            f"{count} tasks; got {self.received[start:]}",
            limit,
        )
        self._taken += count
        return self.received[start : start + count]

    async def task(self, limit: float = DEADLINE_SECONDS) -> lease_pb2.LeasedTask:
        """The next task."""
        return (await self.tasks(1, limit))[0]

    @property
    def untaken(self) -> list[lease_pb2.LeasedTask]:
        """Tasks that arrived and that nobody has asked for yet."""
        return self.received[self._taken :]

    async def send(self, **frame: Any) -> None:
        """Sends a frame."""
        await self._call.write(lease_pb2.LeaseRequest(**frame))

    async def ack(self, *tokens: bytes) -> None:
        """Acks in one frame, without waiting for the results."""
        await self.send(acks=[lease_pb2.AckRequest(lease_token=token) for token in tokens])

    async def fail(self, token: bytes, **fail: Any) -> None:
        """Nacks with an error, without waiting for the result."""
        await self.send(
            nacks=[lease_pb2.NackRequest(lease_token=token, fail=lease_pb2.Fail(**fail))]
        )

    async def result(
        self, token: bytes, operation: lease_pb2.LeaseOperation = ACK
    ) -> Refusal | None:
        """The answer to an ack, nack or heartbeat; None: OK. Each answer is given out once."""

        def find() -> lease_pb2.LeaseResult | None:
            for result in self.results:
                if result.lease_token == token and result.operation == operation:
                    return result
            return None

        result = await self.until(find, f"a result for {token.hex()}")
        assert result is not None
        self.results.remove(result)
        return refusal(result.error) if result.HasField("error") else None

    async def acked(self, *tokens: bytes) -> None:
        """Acks and waits until every ack is confirmed."""
        await self.ack(*tokens)
        for token in tokens:
            assert (problem := await self.result(token)) is None, problem

    async def cancellation(
        self, token: bytes, limit: float = DEADLINE_SECONDS
    ) -> lease_pb2.CancellationReason:
        """Why the lease was cancelled."""

        def find() -> list[lease_pb2.Cancellation]:
            return [c for c in self.cancellations if c.lease_token == token]

        return (await self.until(find, f"a cancellation of {token.hex()}", limit))[0].reason

    async def half_close(self) -> None:
        """Says that no more frames will come."""
        await self._call.done_writing()

    async def end(self, limit: float = DEADLINE_SECONDS) -> Refusal | None:
        """Waits for the server to end the stream; what it says, None: OK."""
        assert self._reader is not None
        await within(asyncio.shield(self._reader), limit)
        return refusal(self.error) if self.error is not None else None

    async def cut(self) -> None:
        """Breaks the stream off without a word."""
        self._call.cancel()
        if self._reader is not None:
            await asyncio.gather(self._reader, return_exceptions=True)
