"""A worker process on the stubs alone, which writes down what it does.

    python -m tests.chaos.worker RECORD ADDRESS,ADDRESS... WORKER_ID QUEUE,QUEUE... OPTIONS

It works on each task for a while, heartbeats, acks, and goes to the next server when its stream
ends. Its record has a line per event, each written before the next thing happens: so it is complete
up to the moment in which the process is killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

import grpc

from tests.toolkit import Api, WorkerStream, connected, refusal
from workerqueue.v1 import lease_pb2


class Options(TypedDict):
    """How the worker behaves."""

    window: int
    # Shortest and longest work on a task.
    work_seconds: tuple[float, float]
    lease_seconds: float
    # Goes on with its work when the server tells it to stop.
    ignores_cancellations: bool


class Recorder:
    """Appends events with a clock that all processes of the machine share."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, event: str, task: lease_pb2.LeasedTask, **more: object) -> None:
        line = {
            "event": event,
            "at": time.monotonic_ns(),
            "task": task.task_id,
            "attempt": task.attempt,
            "key": task.concurrency_key,
            "queue": task.queue,
            **more,
        }
        os.write(self._file, json.dumps(line).encode() + b"\n")


class Worker:
    """Takes tasks until it is killed."""

    def __init__(self, recorder: Recorder, worker_id: str, queues: list[str], options: Options):
        self._recorder = recorder
        self._worker_id = worker_id
        self._queues = queues
        self._options = options
        self._held: dict[bytes, asyncio.Task[None]] = {}
        self._api: Api | None = None

    async def run(self, addresses: list[str]) -> None:
        """Serves one server after the other."""
        turn = random.randrange(len(addresses))
        while True:
            turn += 1
            with suppress(grpc.aio.AioRpcError, AssertionError, TimeoutError):
                async with connected(addresses[turn % len(addresses)]) as api:
                    self._api = api
                    await self._serve(api)
            await asyncio.sleep(0.05)

    async def _serve(self, api: Api) -> None:
        stream = WorkerStream(api)
        try:
            async with asyncio.timeout(3):
                await stream.open(
                    self._queues,
                    self._options["window"],
                    worker_id=self._worker_id,
                    lease_duration=self._options["lease_seconds"],
                    held_lease_tokens=list(self._held),
                )
            beats = asyncio.create_task(self._heartbeat(stream))
            try:
                await self._take(stream)
            finally:
                beats.cancel()
        finally:
            await stream.cut()

    async def _take(self, stream: WorkerStream) -> None:
        while True:
            await stream.until(lambda: stream.received or stream.cancellations, "work", 3600)
            for task in stream.received:
                self._held[task.lease_token] = asyncio.create_task(self._work(stream, task))
            stream.received.clear()
            for cancellation in stream.cancellations:
                running = self._held.get(cancellation.lease_token)
                if running is not None and not self._options["ignores_cancellations"]:
                    running.cancel()
            stream.cancellations.clear()

    async def _work(self, stream: WorkerStream, task: lease_pb2.LeasedTask) -> None:
        self._recorder.write("start", task)
        try:
            await asyncio.sleep(random.uniform(*self._options["work_seconds"]))
        except asyncio.CancelledError:
            self._recorder.write("end", task)
            self._recorder.write("cancelled", task)
            del self._held[task.lease_token]
            return
        self._recorder.write("end", task)
        try:
            self._recorder.write(await self._answer(stream, task), task)
        finally:
            del self._held[task.lease_token]

    async def _answer(self, stream: WorkerStream, task: lease_pb2.LeasedTask) -> str:
        """Acks on the stream, or by call where that is gone; repeats until it has an answer."""
        if not stream.ended:
            with suppress(AssertionError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await stream.ack(task.lease_token)
                refused = await stream.result(task.lease_token)
                if refused is None or not refused.retry_seconds:
                    return "acked" if refused is None else refused.reason
        while True:
            assert self._api is not None
            try:
                await self._api.ack(task.lease_token)
            except (grpc.aio.AioRpcError, grpc.aio.UsageError) as error:
                problem = refusal(error) if isinstance(error, grpc.aio.AioRpcError) else None
                if problem is not None and problem.reason == "LEASE_LOST":
                    return problem.reason
                await asyncio.sleep(0.05)
            else:
                return "acked"

    async def _heartbeat(self, stream: WorkerStream) -> None:
        interval = (await stream.welcome()).heartbeat_interval.ToMilliseconds() / 1000
        while True:
            await asyncio.sleep(interval)
            tokens = list(self._held)
            if tokens:
                await stream.send(
                    heartbeats=[lease_pb2.HeartbeatRequest(lease_token=t) for t in tokens]
                )


def main() -> None:
    """Runs the worker of the command line."""
    record, addresses, worker_id, queues, options = sys.argv[1:]
    worker = Worker(Recorder(Path(record)), worker_id, queues.split(","), json.loads(options))
    asyncio.run(worker.run(addresses.split(",")))


if __name__ == "__main__":
    main()
