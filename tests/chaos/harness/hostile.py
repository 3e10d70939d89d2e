"""A client that does what it must not: `python -m tests.chaos.harness.hostile OPTIONS` (JSON)."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

import grpc

from tests.chaos.harness.calls import note_error, open_channel
from tests.chaos.harness.history import Recorder
from tests.chaos.harness.producer import EACH, NARROW, WIDE
from tests.toolkit import seconds
from workerqueue.v1 import lease_pb2
from workerqueue.v1.worker_queue_pb2_grpc import WorkerQueueStub

_STREAMS = 1_000
_CALLS = 200
_SERVICE = "/workerqueue.v1.WorkerQueue/"
# What a server may say to nonsense. UNKNOWN is gRPC's own word for bytes that it cannot decode.
_FAIR = frozenset(
    {
        *(grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION),
        *(grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE),
        *(grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED),
        *(grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL),
    }
)


class Options(TypedDict):
    """What it does, where, and for how long."""

    folder: str
    name: str
    conduct: str
    address: str
    seed: int
    seconds: float


def _subscribe(name: str, window: int, queues: list[str]) -> lease_pb2.LeaseRequest:
    return lease_pb2.LeaseRequest(
        subscribe=lease_pb2.Subscribe(
            worker_id=name, queues=queues, max_in_flight=window, lease_duration=seconds(2)
        )
    )


async def deaf(options: Options) -> None:
    """Ten streams that take whatever there is and read nothing."""
    async with open_channel(options["address"]) as channel:
        calls = []
        for number in range(10):
            call = WorkerQueueStub(channel).Lease()
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await call.write(_subscribe(f"deaf-{number}", 5, [WIDE, NARROW, EACH]))
            calls.append(call)
        await asyncio.sleep(options["seconds"])
        for call in calls:
            call.cancel()


async def vanish(options: Options) -> None:
    """A thousand streams that subscribe and are gone, a hundred at a time."""
    pick = random.Random(options["seed"])

    async def one(channel: grpc.aio.Channel, number: int) -> None:
        call = WorkerQueueStub(channel).Lease()
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
            await call.write(_subscribe(f"ghost-{number}", 1, [WIDE]))
            if pick.random() < 0.3:
                await call.read()
        call.cancel()

    for start in range(0, _STREAMS, 100):
        async with open_channel(options["address"]) as channel:
            await asyncio.gather(*(one(channel, start + n) for n in range(100)))


async def malformed(options: Options) -> None:
    """Bytes that are no message, messages that are too large, frames that are out of turn."""
    pick = random.Random(options["seed"])
    recorder = Recorder(Path(options["folder"]), options["name"])
    async with open_channel(options["address"]) as channel:
        for _ in range(_CALLS):
            body = pick.choice(
                (
                    pick.randbytes(pick.randrange(200)),
                    bytes(5_000_000),
                    lease_pb2.LeaseRequest(max_in_flight=-1).SerializeToString(),
                    lease_pb2.LeaseRequest(
                        acks=[
                            lease_pb2.AckRequest(lease_token=pick.randbytes(n)) for n in (0, 24, 99)
                        ]
                    ).SerializeToString(),
                    _subscribe("x" * 500, 1, [WIDE]).SerializeToString(),
                )
            )
            method = pick.choice(("Enqueue", "EnqueueBatch", "Ack", "Nack", "Heartbeat", "Lease"))
            try:
                await _send(channel, method, body)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _FAIR:
                    note_error(recorder, method, error)


async def _send(channel: grpc.aio.Channel, method: str, body: bytes) -> None:
    plain: Any = {"request_serializer": None, "response_deserializer": None}
    if method != "Lease":
        await channel.unary_unary(_SERVICE + method, **plain)(body, timeout=5)
        return
    call = channel.stream_stream(_SERVICE + method, **plain)(timeout=5)
    with suppress(asyncio.InvalidStateError, grpc.aio.UsageError):
        await call.write(_subscribe("odd", 0, [WIDE]).SerializeToString())
        await call.write(body)
        await call.done_writing()
    async for _ in call:
        pass


_CONDUCTS = {
    "deaf workers": deaf,
    "1,000 streams that vanish": vanish,
    "malformed frames": malformed,
}


def main() -> None:
    """Runs the conduct of the command line."""
    options: Options = json.loads(sys.argv[1])
    asyncio.run(_CONDUCTS[options["conduct"]](options))
    os._exit(0)


if __name__ == "__main__":
    main()
