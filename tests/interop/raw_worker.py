"""A worker with nothing but the generated stubs: raw_worker.py HOST:PORT QUEUE."""

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from workerqueue.v1 import lease_pb2 as pb
from workerqueue.v1.task_pb2 import TaskError
from workerqueue.v1.worker_queue_pb2_grpc import WorkerQueueStub

if TYPE_CHECKING:
    from workerqueue.v1.worker_queue_pb2_grpc import WorkerQueueAsyncStub


async def handle(task: pb.LeasedTask) -> pb.AckRequest | pb.NackRequest:
    """Does the work; the answer for it."""
    try:
        await asyncio.sleep(float(task.metadata.get("seconds", 0)))
        if "fail" in task.metadata:
            raise RuntimeError(task.metadata["fail"])
    except RuntimeError as error:
        problem = TaskError(type=type(error).__name__, message=str(error))
        return pb.NackRequest(lease_token=task.lease_token, fail=pb.Fail(error=problem))
    ack = pb.AckRequest(lease_token=task.lease_token)
    ack.result.Pack(StringValue(value=f"attempt {task.attempt} by {os.getpid()}"))
    return ack


async def work(address: str, queue: str) -> None:
    """Leases and answers until SIGTERM or until the server drains."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: WorkerQueueAsyncStub = WorkerQueueStub(channel)
        stream = stub.Lease()
        writing = asyncio.Lock()  # gRPC allows one write at a time
        running: dict[bytes, asyncio.Task[None]] = {}

        async def send(**frame: Any) -> None:
            async with writing:
                await stream.write(pb.LeaseRequest(**frame))

        async def beat(task: pb.LeasedTask) -> None:
            while True:
                await asyncio.sleep(task.lease_duration.ToMilliseconds() / 3000)
                await send(heartbeats=[pb.HeartbeatRequest(lease_token=task.lease_token)])

        async def run(task: pb.LeasedTask) -> None:
            beating = asyncio.create_task(beat(task))
            try:
                answer = await handle(task)
                await send(**{"acks" if isinstance(answer, pb.AckRequest) else "nacks": [answer]})
            finally:
                beating.cancel()
                del running[task.lease_token]

        worker = pb.Subscribe(worker_id=f"raw-{os.getpid()}", queues=[queue], max_in_flight=10)
        await send(subscribe=worker)
        drain = asyncio.get_running_loop().add_signal_handler
        drain(signal.SIGTERM, lambda: asyncio.ensure_future(send(drain=True)))
        while isinstance(frame := await stream.read(), pb.LeaseResponse):
            for task in frame.tasks:
                running[task.lease_token] = asyncio.create_task(run(task))
            for ended in frame.cancellations:
                if ended.lease_token in running:
                    running[ended.lease_token].cancel()


if __name__ == "__main__":
    asyncio.run(work(*sys.argv[1:]))
