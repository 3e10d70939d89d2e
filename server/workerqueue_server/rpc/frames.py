"""Frames to workers, encoded by hand.

A busy server sends tens of thousands of leases a second. Most bytes of a lease are the same for all
tasks of a run, so those are serialized once and the rest is put between them: protobuf fields may
come in any order. The tests hold this against the generated classes.
"""

from __future__ import annotations

from binascii import hexlify
from collections.abc import Sequence

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2

from workerqueue.v1 import lease_pb2
from workerqueue_server.queue.catalog import Kind
from workerqueue_server.queue.varint import varint
from workerqueue_server.store.records import GrantRun, Lane

# The token (tag, length and 24 bytes) and the id (tag, length and 36) of an entry.
_TOKEN_AND_ID = 64
# An entry of LeaseRequest.acks with a token (24 bytes) and no result.
_ACK_HEAD = b"\x1a\x1a\x0a\x18"
# An ack, nack or heartbeat result without error: 28 bytes of token and operation in field 3.
_OK_HEAD = b"\x1a\x1c\x0a\x18"
_OK_TAIL = {
    lease_pb2.LEASE_OPERATION_ACK: b"\x10\x01",
    lease_pb2.LEASE_OPERATION_NACK: b"\x10\x02",
    lease_pb2.LEASE_OPERATION_HEARTBEAT: b"\x10\x03",
}


def plain_acks(data: bytes) -> list[bytes] | None:
    """The tokens of a LeaseRequest that holds nothing but acks without results, else None.

    What busy workers send most: entries of one length, whose first four bytes say that 24 bytes of
    token follow and then the next entry, so nothing else needs to be parsed.
    """
    count, rest = divmod(len(data), len(_ACK_HEAD) + 24)
    if rest or not count:
        return None
    step = len(_ACK_HEAD) + 24
    for place, byte in enumerate(_ACK_HEAD):
        if data[place::step].count(byte) != count:
            return None
    return [data[start : start + 24] for start in range(len(_ACK_HEAD), len(data), step)]


class LeaseEncoder:
    """Encodes granted leases as ``LeaseResponse.tasks`` entries."""

    def __init__(self) -> None:
        self._payload_heads: dict[str, bytes] = {}

    def encode(
        self, run: GrantRun, lane: Lane, kind: Kind, payloads: Sequence[bytes]
    ) -> list[bytes]:
        """The run's entries of a LeaseResponse frame, one per lease, tag and length included."""
        head = self._payload_heads.get(kind.type_name)
        if head is None:
            head = self._payload_heads[kind.type_name] = Any(
                type_url=kind.type_url
            ).SerializeToString()
        shared = _shared_fields(run, lane)
        if run.concurrency_keys is not None:
            layouts = [
                _layout(head, len(payload), shared + _key_field(key))
                for payload, key in zip(payloads, run.concurrency_keys, strict=True)
            ]
        else:
            by_size = {size: _layout(head, size, shared) for size in set(map(len, payloads))}
            layouts = [by_size[size] for size in map(len, payloads)]
        return list(map(_entry, layouts, run.tokens, payloads))


def _entry(layout: bytes, token: bytes, payload: bytes) -> bytes:
    text = hexlify(token)
    return layout % (
        token,
        text[:8],
        text[8:12],
        text[12:16],
        text[16:20],
        text[20:32],
        payload,
    )


def _layout(head: bytes, size: int, rest: bytes) -> bytes:
    """An entry with places for token, the five groups of the task's id, and the payload.

    Args:
        head: The payload's type.
        size: The payload's length.
        rest: All other fields of the LeasedTask.
    """
    value_head = b"\x12" + varint(size) if size else b""
    payload_head = b"\x22" + varint(len(head) + len(value_head) + size) + head + value_head
    length = varint(_TOKEN_AND_ID + len(payload_head) + size + len(rest))
    return b"\x12%b\x0a\x18%%b\x12\x24%%b-%%b-%%b-%%b-%%b%b%%b%b" % tuple(
        part.replace(b"%", b"%%") for part in (length, payload_head, rest)
    )


def _shared_fields(run: GrantRun, lane: Lane) -> bytes:
    seconds, micros = divmod(run.created_at, 1_000_000)
    shared = lease_pb2.LeasedTask(
        kind=lane.kind,
        queue=lane.queue,
        priority=lane.priority,
        attempt=run.attempt,
        max_attempts=run.max_attempts,
        timeout=milliseconds(run.timeout_ms),
        lease_duration=milliseconds(run.lease_ms),
        created_at=Timestamp(seconds=seconds, nanos=micros * 1000),
    )
    if run.metadata:
        shared.metadata.update(run.metadata)
    if run.checkpoint is not None:
        shared.checkpoint.ParseFromString(run.checkpoint)
    return shared.SerializeToString()


def _key_field(key: str) -> bytes:
    return lease_pb2.LeasedTask(concurrency_key=key).SerializeToString()


def uuid_text(task_id: bytes) -> str:
    """The canonical form of a UUID."""
    text = task_id.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def batch_results(task_ids: Sequence[bytes], outcome: int) -> bytes:
    """EnqueueBatchResponse.results entries with these tasks and one outcome for all."""
    number = varint(outcome)
    layout = b"\x0a%b\x0a\x24%%b-%%b-%%b-%%b-%%b\x10%b" % (varint(39 + len(number)), number)
    texts = map(hexlify, task_ids)
    return b"".join(
        [layout % (t[:8], t[8:12], t[12:16], t[16:20], t[20:]) for t in texts],
    )


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
