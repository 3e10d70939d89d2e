"""What clients of the harness may be told, and what they may not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import grpc

from tests.chaos.harness.history import Recorder
from tests.toolkit import refusal
from workerqueue.v1.worker_queue_pb2_grpc import WorkerQueueStub

if TYPE_CHECKING:
    from workerqueue.v1.worker_queue_pb2_grpc import WorkerQueueAsyncStub

# What a retrying client retries. All else that a server says for itself is a finding.
_TRANSIENT = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
    }
)
_CHANNEL: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
)


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel with a connection of its own."""
    return grpc.aio.insecure_channel(address, options=_CHANNEL)


def open_stub(address: str) -> WorkerQueueAsyncStub:
    """The service over a channel that stays open as long as its process lives."""
    stub: Any = WorkerQueueStub(open_channel(address))
    return cast("WorkerQueueAsyncStub", stub)


def said_by_server(error: grpc.aio.AioRpcError) -> bool:
    """Whether the server made this status; else gRPC did, on a connection that broke."""
    return any(name == "grpc-status-details-bin" for name, _ in error.trailing_metadata() or ())


def is_lost(error: grpc.aio.AioRpcError) -> bool:
    """Whether it says that the lease is lost."""
    return refusal(error).reason == "LEASE_LOST"


def note_error(recorder: Recorder, call: str, error: grpc.aio.AioRpcError) -> None:
    """Records what no retrying client may hear."""
    if said_by_server(error) and error.code() not in _TRANSIENT:
        recorder.write("error", call=call, code=error.code().name, text=error.details() or "")
