"""How every channel of this package is opened: address, keepalive, retries, credentials."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Final

import grpc
import grpc.aio

from workerqueue._security import Metadata, Security

ADDRESS_VARIABLE: Final = "WORKERQUEUE_ADDRESS"
DEFAULT_ADDRESS: Final = "127.0.0.1:50551"

# Every call listed here is safe to repeat: enqueues carry the client's task id, the others a lease
# token. About 3 s of trying in all, enough for a server to restart behind a load balancer.
_SERVICE_CONFIG: Final = json.dumps(
    {
        "methodConfig": [
            {
                "name": [
                    {"service": "workerqueue.v1.WorkerQueue", "method": method}
                    for method in ("Enqueue", "EnqueueBatch", "Ack", "Nack", "Heartbeat")
                ],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "3s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)

_OPTIONS: Final[tuple[tuple[str, int | str], ...]] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    # Without it a frozen peer is noticed only after a minute, whatever the keepalive says.
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    # Also bounds how long one attempt to connect may take.
    ("grpc.min_reconnect_backoff_ms", 3_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.enable_retries", 1),
    ("grpc.service_config", _SERVICE_CONFIG),
)

# A worker opens a new channel for each stream and means a new connection by it: with the shared
# pool it would be put back on the connection to the server that just asked it to go.
_OWN_CONNECTION: Final = ("grpc.use_local_subchannel_pool", 1)


def resolve_address(address: str | None) -> str:
    """``address``, or ``WORKERQUEUE_ADDRESS``, or the server's default."""
    return address or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS


def call_metadata(token: Callable[[], str] | None) -> Metadata | None:
    """The metadata that authenticates one call."""
    return None if token is None else (("authorization", f"Bearer {token()}"),)


def open_channel(address: str, security: Security, *, own_connection: bool = False) -> grpc.Channel:
    """A sync channel. Raises OSError if a file of its certificates cannot be read."""
    options = [*_OPTIONS, *security.options, *([_OWN_CONNECTION] if own_connection else ())]
    if security.credentials is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, security.credentials(), options=options)


def open_aio_channel(address: str, security: Security) -> grpc.aio.Channel:
    """An asyncio channel; must be called inside the loop that uses it. Raises OSError."""
    options = [*_OPTIONS, *security.options]
    if security.credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, security.credentials(), options=options)
