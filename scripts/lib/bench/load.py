"""The load: producers and workers on raw stubs (and on the Python client), a process each.

`python -m bench.load NAME JSON` connects, prints `ready`, waits for a line on its standard input,
works, and prints what it did as JSON. Times are of the monotonic clock, which the processes of one
machine share.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, TypedDict

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any

from workerqueue import AsyncClient, Worker
from workerqueue.tasks.v1.tasks_pb2 import RunFinished
from workerqueue.v1.lease_pb2 import AckRequest, LeaseRequest, LeaseResponse, Subscribe
from workerqueue.v1.worker_queue_pb2 import (
    EnqueueBatchRequest,
    EnqueueRequest,
    TaskOptions,
)
from workerqueue.v1.worker_queue_pb2_grpc import WorkerQueueStub

if TYPE_CHECKING:
    from workerqueue.v1.worker_queue_pb2_grpc import WorkerQueueAsyncStub

# 36 bytes of id beside the message's own: what a task that names one object carries.
_ID = "run_01J9Z3M8V4T6Q2X7C5B1N0K8P9-000001"
# Channels of one process share connections unless they are told not to.
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.use_local_subchannel_pool", 1),
)
_STREAMS_PER_CONNECTION = 10
_PACED_BATCH = 100


class Order(TypedDict):
    """What a load process is told to do."""

    target: str
    # Where tasks go and are taken from, in turns.
    queues: list[str]
    # What a worker asks for besides.
    beside: list[str]
    tasks: int
    # Of each stream.
    window: int
    in_flight: int
    batch: int
    streams: int
    # Tasks a second, of a load that is paced.
    rate: float


class Report(TypedDict):
    """What a load process has done."""

    started: float
    ended: float
    cpu: float
    latencies: list[float]


Gate = Callable[[], Awaitable[None]]
Load = Callable[[Order, Gate], Coroutine[None, None, Report]]


class _Stopwatch:
    def __init__(self) -> None:
        self._started, self._cpu = time.monotonic(), time.process_time()

    def report(self, latencies: list[float] | None = None) -> Report:
        return Report(
            started=self._started,
            ended=time.monotonic(),
            cpu=time.process_time() - self._cpu,
            latencies=latencies or [],
        )


def _request(queue: str, run: str = _ID) -> EnqueueRequest:
    payload = Any()
    payload.Pack(RunFinished(id=run))
    return EnqueueRequest(payload=payload, options=TaskOptions(queue=queue))


def _batch_requests(order: Order) -> list[EnqueueBatchRequest]:
    """One batch to send again and again, or one for each queue."""
    return [
        EnqueueBatchRequest(tasks=[_request(queue)] * _per_queue(order))
        for queue in order["queues"]
    ]


def _per_queue(order: Order) -> int:
    return min(order["batch"], order["tasks"] // len(order["queues"]))


async def _stub(channel: grpc.aio.Channel) -> WorkerQueueAsyncStub:
    await channel.channel_ready()
    return WorkerQueueStub(channel)


async def enqueue(order: Order, gate: Gate) -> Report:
    """Enqueue calls, so many in flight."""
    request = _request(order["queues"][0])
    async with grpc.aio.insecure_channel(order["target"], _CHANNEL_OPTIONS) as channel:
        stub = await _stub(channel)

        async def call(times: int) -> None:
            for _ in range(times):
                await stub.Enqueue(request)

        await gate()
        watch = _Stopwatch()
        share = order["tasks"] // order["in_flight"]
        await asyncio.gather(*(call(share) for _ in range(order["in_flight"])))
        return watch.report()


async def enqueue_client(order: Order, gate: Gate) -> Report:
    """Concurrent `enqueue` calls of one Python client."""
    payload = RunFinished(id=_ID)
    async with AsyncClient(order["target"]) as client:

        async def call(times: int) -> None:
            for _ in range(times):
                await client.enqueue(payload, queue=order["queues"][0])

        await call(1)
        await gate()
        watch = _Stopwatch()
        share = order["tasks"] // order["in_flight"]
        await asyncio.gather(*(call(share) for _ in range(order["in_flight"])))
        return watch.report()


async def batch(order: Order, gate: Gate) -> Report:
    """EnqueueBatch calls, so many in flight."""
    requests = _batch_requests(order)
    async with grpc.aio.insecure_channel(order["target"], _CHANNEL_OPTIONS) as channel:
        stub = await _stub(channel)
        calls = iter(range(order["tasks"] // _per_queue(order)))

        async def call() -> None:
            for number in calls:
                await _store(stub, requests[number % len(requests)])

        await gate()
        watch = _Stopwatch()
        await asyncio.gather(*(call() for _ in range(order["in_flight"])))
        return watch.report()


async def _store(stub: WorkerQueueAsyncStub, request: EnqueueBatchRequest) -> None:
    response = await stub.EnqueueBatch(request)
    if any(result.HasField("error") for result in response.results):
        raise RuntimeError(f"an item was refused: {response.results[0].error}")


async def paced(order: Order, gate: Gate) -> Report:
    """EnqueueBatch calls of 100 tasks at a steady rate."""
    request = EnqueueBatchRequest(tasks=[_request(order["queues"][0])] * _PACED_BATCH)
    async with grpc.aio.insecure_channel(order["target"], _CHANNEL_OPTIONS) as channel:
        stub = await _stub(channel)
        await gate()
        watch = _Stopwatch()
        loop = asyncio.get_running_loop()
        due = loop.time()
        async with asyncio.TaskGroup() as calls:
            for _ in range(order["tasks"] // _PACED_BATCH):
                due += _PACED_BATCH / order["rate"]
                await asyncio.sleep(due - loop.time())
                calls.create_task(_store(stub, request))
        return watch.report()


class _Leases:
    """One stream of a worker: acks the tasks of a frame in one frame, and checks the answers."""

    def __init__(self, order: Order, number: int = 0) -> None:
        self._order = order
        self._worker_id = f"bench-{number}"

    async def open(self, channel: grpc.aio.Channel) -> None:
        """Subscribes with a closed window, so that the start of the work can be told apart."""
        self._call = (await _stub(channel)).Lease()
        queues = [*self._order["queues"], *self._order["beside"]]
        subscribe = Subscribe(worker_id=self._worker_id, queues=queues)
        await self._call.write(LeaseRequest(subscribe=subscribe))
        await self.read()

    async def read(self) -> LeaseResponse:
        """The next frame. Raises RuntimeError if there is none."""
        frame = await self._call.read()
        if not isinstance(frame, LeaseResponse):
            raise RuntimeError(f"the stream ended: {await self._call.code()}")
        return frame

    async def begin(self) -> None:
        """Opens the window."""
        await self._call.write(LeaseRequest(max_in_flight=self._order["window"]))

    async def finish(self, frame: LeaseResponse) -> int:
        """Acks the frame's tasks; how many earlier acks the frame confirms."""
        if frame.tasks:
            acks = [AckRequest(lease_token=task.lease_token) for task in frame.tasks]
            await self._call.write(LeaseRequest(acks=acks))
        if any(result.HasField("error") for result in frame.results):
            raise RuntimeError(f"an ack was refused: {frame}")
        return len(frame.results)


@contextlib.asynccontextmanager
async def _opened(order: Order) -> AsyncIterator[list[_Leases]]:
    """So many streams, ten on a connection."""
    streams = [_Leases(order, number) for number in range(order["streams"])]
    async with contextlib.AsyncExitStack() as stack:
        for start in range(0, len(streams), _STREAMS_PER_CONNECTION):
            channel = await stack.enter_async_context(
                grpc.aio.insecure_channel(order["target"], _CHANNEL_OPTIONS)
            )
            for stream in streams[start : start + _STREAMS_PER_CONNECTION]:
                await stream.open(channel)
        yield streams


async def drain(order: Order, gate: Gate) -> Report:
    """Leases and acks, on all streams, until so many acks are confirmed."""
    confirmed = 0
    enough = asyncio.Event()

    async def work(stream: _Leases) -> None:
        nonlocal confirmed
        await stream.begin()
        while confirmed < order["tasks"]:
            # In two steps: other streams count while this one waits.
            finished = await stream.finish(await stream.read())
            confirmed += finished
        enough.set()

    async with _opened(order) as streams:
        await gate()
        watch = _Stopwatch()
        if len(streams) == 1:
            await work(streams[0])
            return watch.report()
        working = [asyncio.create_task(work(stream)) for stream in streams]
        waiting = asyncio.create_task(enough.wait())
        done, _ = await asyncio.wait((*working, waiting), return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        report = watch.report()
        # The streams that were left without tasks wait for more.
        for task in (*working, waiting):
            task.cancel()
        await asyncio.gather(*working, waiting, return_exceptions=True)
        return report


async def idle(order: Order, gate: Gate) -> Report:
    """Streams that wait for tasks which never come, until the process is killed."""
    async with _opened(order) as streams:
        for stream in streams:
            await stream.begin()
        await gate()
        watch = _Stopwatch()
        await asyncio.Event().wait()
        return watch.report()


async def drain_worker(order: Order, gate: Gate) -> Report:
    """The Python client's worker with an async handler that does nothing."""
    running = max(1, order["window"] // 4)
    worker = Worker(
        order["target"],
        queues=order["queues"],
        concurrency=running,
        prefetch=order["window"] - running,
    )
    left = order["tasks"]

    @worker.handler(RunFinished)
    async def finish(_payload: RunFinished) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            worker.stop()

    await gate()
    watch = _Stopwatch()
    await worker.run_async()
    return watch.report()


async def receive(order: Order, gate: Gate) -> Report:
    """A worker that notes how long ago each task's Enqueue call began, as its payload says."""
    leases = _Leases(order)
    latencies: list[float] = []
    async with grpc.aio.insecure_channel(order["target"], _CHANNEL_OPTIONS) as channel:
        await leases.open(channel)
        await gate()
        watch = _Stopwatch()
        await leases.begin()
        confirmed = 0
        while confirmed < order["tasks"]:
            frame = await leases.read()
            now = time.monotonic_ns()
            for task in frame.tasks:
                started = int(RunFinished.FromString(task.payload.value).id)
                latencies.append((now - started) / 1e9)
            confirmed += await leases.finish(frame)
        return watch.report(latencies)


async def trickle(order: Order, gate: Gate) -> Report:
    """Enqueue calls one at a time with pauses, each saying in its payload when it began."""
    pause = random.Random(7)
    async with grpc.aio.insecure_channel(order["target"], _CHANNEL_OPTIONS) as channel:
        stub = await _stub(channel)
        await gate()
        watch = _Stopwatch()
        calls = []
        for _ in range(order["tasks"]):
            await asyncio.sleep(pause.uniform(0.005, 0.025))
            started = time.monotonic_ns()
            await stub.Enqueue(_request(order["queues"][0], str(started)))
            calls.append((time.monotonic_ns() - started) / 1e9)
        return watch.report(calls)


LOADS: dict[str, Load] = {
    load.__name__.replace("_", "-"): load
    for load in (enqueue, enqueue_client, batch, paced, drain, drain_worker, idle, receive, trickle)
}


async def _gate() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if not await asyncio.to_thread(sys.stdin.readline):
        raise SystemExit("nobody waits for this load any more")


def main() -> None:
    """Runs one load."""
    name, order = sys.argv[1:]
    report = asyncio.run(LOADS[name](json.loads(order), _gate))
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
