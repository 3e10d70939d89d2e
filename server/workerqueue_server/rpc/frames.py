"""Frames to workers, encoded by hand.

A busy server sends tens of thousands of leases a second. Most bytes of a lease are the same for all
tasks of a lane, so those are serialized once and the rest is joined to them: protobuf fields may
come in any order. The tests hold this against the generated classes.
"""

from __future__ import annotations

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import status_pb2

from workerqueue.v1 import lease_pb2
from workerqueue_server.queue.catalog import Kind
from workerqueue_server.store.records import Grant, Lane

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
    if number < 0x80:
        return bytes((number,))
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


class LeaseEncoder:
    """Encodes grants as ``LeaseResponse.tasks`` entries."""

    def __init__(self) -> None:
        self._shared: dict[tuple[int, int, int, int], bytes] = {}
        self._payload_heads: dict[str, bytes] = {}

    def encode(self, grant: Grant, lane: Lane, kind: Kind, payload: bytes) -> bytes:
        """One entry of a LeaseResponse frame, tag and length included."""
        token = grant.token
        value = b"\x12" + varint(len(payload)) + payload if payload else b""
        head = self._payload_heads.get(kind.type_name)
        if head is None:
            head = self._payload_heads[kind.type_name] = Any(
                type_url=kind.type_url
            ).SerializeToString()
        seconds, micros = divmod(grant.created_at, 1_000_000)
        created = b"\x08" + varint(seconds)
        if micros:
            created += b"\x10" + varint(micros * 1000)
        parts = [
            b"\x0a\x18",
            token,
            b"\x12\x24",
            uuid_text(token[:16]).encode(),
            b"\x22",
            varint(len(head) + len(value)),
            head,
            value,
            b"\x28",
            varint(grant.attempt),
            b"\x52",
            varint(len(created)),
            created,
            self._shared_fields(grant, lane),
        ]
        if grant.metadata or grant.checkpoint or grant.concurrency_key:
            parts.append(_rare_fields(grant))
        body = b"".join(parts)
        return _TASKS + varint(len(body)) + body

    def _shared_fields(self, grant: Grant, lane: Lane) -> bytes:
        key = (grant.lane_id, grant.timeout_ms, grant.lease_ms, grant.max_attempts)
        shared = self._shared.get(key)
        if shared is None:
            if len(self._shared) > 10_000:
                self._shared.clear()
            shared = self._shared[key] = lease_pb2.LeasedTask(
                kind=lane.kind,
                queue=lane.queue,
                priority=lane.priority,
                max_attempts=grant.max_attempts,
                timeout=milliseconds(grant.timeout_ms),
                lease_duration=milliseconds(grant.lease_ms),
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


def batch_result(task_id: bytes, outcome: int) -> bytes:
    """An EnqueueBatchResponse.results entry of a stored task."""
    return b"\x0a\x28\x0a\x24" + uuid_text(task_id).encode() + b"\x10" + varint(outcome)


def milliseconds(value: int) -> Duration:
    """A Duration of so many milliseconds."""
    return Duration(seconds=value // 1000, nanos=value % 1000 * 1_000_000)


def ok_result(token: bytes, operation: lease_pb2.LeaseOperation) -> bytes:
    """A LeaseResponse.results entry that says OK."""
    return _OK_HEAD + token + _OK_TAIL[operation]


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
