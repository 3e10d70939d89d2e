"""How every channel of this package is opened: address, keepalive, retries, credentials."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Final

import grpc
import grpc.aio

ADDRESS_VARIABLE: Final = "WORKERQUEUE_ADDRESS"
TOKEN_VARIABLE: Final = "WORKERQUEUE_TOKEN"
DEFAULT_ADDRESS: Final = "127.0.0.1:50551"

Token = str | Callable[[], str]
Metadata = tuple[tuple[str, str], ...]

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


def resolve_token(token: Token | None) -> Token | None:
    """``token``, or ``WORKERQUEUE_TOKEN``, or none."""
    return token or os.environ.get(TOKEN_VARIABLE) or None


def call_metadata(token: Token | None) -> Metadata | None:
    """The metadata that authenticates one call."""
    if token is None:
        return None
    value = token if isinstance(token, str) else token()
    return (("authorization", f"Bearer {value}"),)


def open_channel(
    address: str, credentials: grpc.ChannelCredentials | None, *, own_connection: bool = False
) -> grpc.Channel:
    """A sync channel."""
    options = [*_OPTIONS, _OWN_CONNECTION] if own_connection else list(_OPTIONS)
    if credentials is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, credentials, options=options)


def open_aio_channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    """An asyncio channel; must be called inside the loop that uses it."""
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=list(_OPTIONS))
    return grpc.aio.secure_channel(address, credentials, options=list(_OPTIONS))
