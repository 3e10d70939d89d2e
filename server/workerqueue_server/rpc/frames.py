"""Frames to workers, encoded by hand.

A busy server sends tens of thousands of leases a second. Most bytes of a lease are the same for all
tasks of a lane, so those are serialized once and the rest is joined to them: protobuf fields may
come in any order. The tests hold this against the generated classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2

from workerqueue.v1 import lease_pb2
from workerqueue_server.queue.catalog import Kind
from workerqueue_server.store.records import Grant, Lane

_MAX_SHARED = 4_096

# Field tags of LeaseResponse.
_TASKS = b"\x12"
# An ack, nack or heartbeat result without error: 28 bytes of token and operation in field 3.
_OK_HEAD = b"\x1a\x1c\x0a\x18"
_OK_TAIL = {
    lease_pb2.LEASE_OPERATION_ACK: b"\x10\x01",
    lease_pb2.LEASE_OPERATION_NACK: b"\x10\x02",
    lease_pb2.LEASE_OPERATION_HEARTBEAT: b"\x10\x03",
}


def varint(number: int) -> bytes:
    """A protobuf varint."""
    if number < len(_VARINTS):
        return _VARINTS[number]
    return _varint(number)


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


_VARINTS = [_varint(number) for number in range(0x800)]


class LeaseEncoder:
    """Encodes grants as ``LeaseResponse.tasks`` entries."""

    def __init__(self) -> None:
        self._shared: dict[tuple[int, int, int, int, int, int], bytes] = {}
        self._payload_heads: dict[str, bytes] = {}

    def encode(self, grant: Grant, lane: Lane, kind: Kind, payload: bytes) -> bytes:
        """One entry of a LeaseResponse frame, tag and length included."""
        (_, _, token, lane_id, _, attempt, max_attempts, timeout_ms, lease_ms, created_at, *_) = (
            grant
        )
        shared = self._shared.get(
            (lane_id, attempt, max_attempts, timeout_ms, lease_ms, created_at)
        )
        if shared is None:
            shared = self._share(grant, lane)
        head = self._payload_heads.get(kind.type_name)
        if head is None:
            head = self._payload_heads[kind.type_name] = Any(
                type_url=kind.type_url
            ).SerializeToString()
        size = len(payload)
        value = b"\x12" + varint(size) + payload if size else b""
        body = b"\x0a\x18%b\x12\x24%b\x22%b%b%b%b" % (
            token,
            uuid_text(token[:16]).encode(),
            varint(len(head) + len(value)),
            head,
            value,
            shared,
        )
        if grant.metadata or grant.checkpoint or grant.concurrency_key:
            body += _rare_fields(grant)
        return _TASKS + varint(len(body)) + body

    def _share(self, grant: Grant, lane: Lane) -> bytes:
        """The fields that tasks stored by one batch share."""
        if len(self._shared) > _MAX_SHARED:
            self._shared.clear()
        key = (
            grant.lane_id,
            grant.attempt,
            grant.max_attempts,
            grant.timeout_ms,
            grant.lease_ms,
            grant.created_at,
        )
        seconds, micros = divmod(grant.created_at, 1_000_000)
        shared = self._shared[key] = lease_pb2.LeasedTask(
            kind=lane.kind,
            queue=lane.queue,
            priority=lane.priority,
            attempt=grant.attempt,
            max_attempts=grant.max_attempts,
            timeout=milliseconds(grant.timeout_ms),
            lease_duration=milliseconds(grant.lease_ms),
            created_at=Timestamp(seconds=seconds, nanos=micros * 1000),
        ).SerializeToString()
        return shared


def _rare_fields(grant: Grant) -> bytes:
    rare = lease_pb2.LeasedTask(concurrency_key=grant.concurrency_key or "")
    if grant.metadata:
        rare.metadata.update(grant.metadata)
    if grant.checkpoint is not None:
        rare.checkpoint.ParseFromString(grant.checkpoint)
    return rare.SerializeToString()


def uuid_text(task_id: bytes) -> str:
    """The canonical form of a UUID."""
    text = task_id.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def milliseconds(value: int) -> Duration:
    """A Duration of so many milliseconds."""
    return Duration(seconds=value // 1000, nanos=value % 1000 * 1_000_000)


def ok_results(tokens: Sequence[bytes], operation: lease_pb2.LeaseOperation) -> bytes:
    """LeaseResponse.results entries that say OK, one per token."""
    tail = _OK_TAIL[operation]
    return _OK_HEAD + (tail + _OK_HEAD).join(tokens) + tail


def failed_result(
    token: bytes, operation: lease_pb2.LeaseOperation, error: status_pb2.Status
) -> bytes:
    """A LeaseResponse.results entry with an error."""
    return lease_pb2.LeaseResponse(
        results=[lease_pb2.LeaseResult(lease_token=token, operation=operation, error=error)]
    ).SerializeToString()


def cancellation(token: bytes, reason: int) -> bytes:
    """A LeaseResponse.cancellations entry."""
    return lease_pb2.LeaseResponse(
        cancellations=[
            lease_pb2.Cancellation(
                lease_token=token, reason=lease_pb2.CancellationReason.Name(reason)
            )
        ]
    ).SerializeToString()
