"""A producer process: `python -m tests.chaos.harness.producer OPTIONS` with options as JSON.

It enqueues at a steady rate, one by one and in batches, and repeats each call with the same ids
until it is answered. Some tasks are sent again after their answer, too. SIGTERM: no new tasks; it
ends when the last one is acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import uuid
from pathlib import Path
from typing import Any, TypedDict

import grpc

from tests.chaos.harness.calls import note_error, open_stub
from tests.chaos.harness.history import Recorder
from tests.toolkit import request, seconds
from workerqueue.v1 import policy_pb2, worker_queue_pb2

WIDE, NARROW, EACH = "wide", "narrow", "each"
NARROW_LIMIT, EACH_LIMIT = 4, 2
QUEUES = (WIDE, NARROW, EACH)
TICKS = "ticks"

_CALL_SECONDS = 15.0
# More calls would only wait for each other; then tasks come as fast as they are taken.
_CALLS_AT_ONCE = 30
_PAUSE_SECONDS = 0.1
_MONTH = seconds(30 * 86_400)
_RETENTION = policy_pb2.RetentionPolicy(
    succeeded=_MONTH, dead=_MONTH, cancelled=_MONTH, expired=_MONTH
)
RETRY = policy_pb2.RetryPolicy(
    initial_backoff=seconds(0.05), multiplier=2, max_backoff=seconds(1), jitter=0.5
)


class Options(TypedDict):
    """How the producer behaves."""

    folder: str
    name: str
    addresses: list[str]
    seed: int
    tasks_per_second: float


class Producer:
    """Enqueues until it is told to end."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._random = random.Random(options["seed"])
        self._recorder = Recorder(Path(options["folder"]), options["name"])
        self._ending = asyncio.Event()
        self._turn = self._random.randrange(len(options["addresses"]))

    async def run(self) -> None:
        """Enqueues until SIGTERM."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._ending.set)
        self._stubs = [open_stub(address) for address in self._options["addresses"]]
        places = asyncio.Semaphore(_CALLS_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            while not self._ending.is_set():
                count = self._random.choice((1, 1, 1, 5, 20))
                await places.acquire()
                made = [self._make() for _ in range(count)]
                delivery = group.create_task(self._deliver(made))
                delivery.add_done_callback(lambda _: places.release())
                try:
                    async with asyncio.timeout(count / self._options["tasks_per_second"]):
                        await self._ending.wait()
                except TimeoutError:
                    pass

    def _make(self) -> worker_queue_pb2.EnqueueRequest:
        pick = self._random
        key, key_limit = "", 1
        if pick.random() < 0.3:
            key_limit = pick.choice((1, 1, 3))
            key = f"key-{key_limit}-{pick.randrange(12)}"
        made = request(
            task_id=str(uuid.UUID(int=pick.getrandbits(128), version=4)),
            queue=pick.choices(QUEUES, (8, 1, 1))[0],
            priority=pick.choice((0, 0, 0, 5)),
            max_attempts=pick.choice((1, 3, 10, 10)),
            concurrency_key=key,
            concurrency_limit=key_limit,
            retry=RETRY,
            retention=_RETENTION,
        )
        if pick.random() < 0.1:
            made.options.delay.CopyFrom(seconds(pick.uniform(0.1, 2)))
        self._recorder.write(
            "enqueue",
            task=made.task_id,
            queue=made.options.queue,
            key=key,
            key_limit=key_limit,
            max_attempts=made.options.max_attempts,
        )
        return made

    async def _deliver(self, made: list[worker_queue_pb2.EnqueueRequest]) -> None:
        while True:
            self._turn += 1
            stub = self._stubs[self._turn % len(self._stubs)]
            try:
                outcomes = await self._send(stub, made)
            except grpc.aio.AioRpcError as error:
                note_error(self._recorder, "Enqueue", error)
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            for item, outcome in zip(made, outcomes, strict=True):
                self._recorder.write("acknowledged", task=item.task_id, outcome=outcome)
            if self._random.random() > 0.05:
                return

    async def _send(self, stub: Any, made: list[worker_queue_pb2.EnqueueRequest]) -> list[int]:
        if len(made) == 1:
            answer = await stub.Enqueue(made[0], timeout=_CALL_SECONDS)
            return [answer.outcome]
        batch = worker_queue_pb2.EnqueueBatchRequest(tasks=made)
        results = (await stub.EnqueueBatch(batch, timeout=_CALL_SECONDS)).results
        for result in results:
            if result.HasField("error"):
                self._recorder.write(
                    "error", call="EnqueueBatch", code=result.error.code, text=result.error.message
                )
        return [result.outcome for result in results]


def main() -> None:
    """Runs the producer of the command line."""
    options: Options = json.loads(sys.argv[1])
    asyncio.run(Producer(options).run())
    os._exit(0)


if __name__ == "__main__":
    main()
