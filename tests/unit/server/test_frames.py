"""Frames encoded by hand are what the generated classes would have made of them."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from google.rpc import code_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from workerqueue.v1 import lease_pb2
from workerqueue_server.queue.catalog import Catalog
from workerqueue_server.rpc import frames
from workerqueue_server.store.records import Grant, Lane

CATALOG = Catalog.load()
TOKENS = st.binary(min_size=24, max_size=24)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@st.composite
def grants(draw: st.DrawFn) -> Grant:
    checkpoint = None
    if draw(st.booleans()):
        packed: Any = lease_pb2.HeartbeatRequest().checkpoint
        packed.type_url = draw(TEXTS.filter(bool))
        packed.value = draw(st.binary(max_size=50))
        checkpoint = packed.SerializeToString()
    return Grant(
        request=0,
        place=0,
        token=draw(TOKENS),
        lane_id=draw(st.integers(1, 3)),
        position=draw(st.integers(0, 2**62)),
        attempt=draw(st.integers(1, 1000)),
        max_attempts=draw(st.integers(1, 1000)),
        timeout_ms=draw(st.integers(100, 7 * 86_400_000)),
        lease_ms=draw(st.integers(1_000, 3_600_000)),
        created_at=draw(st.integers(0, 253_402_300_799_999_999)),
        payload=draw(st.none() | st.binary(max_size=300) | st.just(b"x" * 20_000)),
        args=None,
        concurrency_key=draw(st.none() | TEXTS),
        metadata=draw(st.none() | st.dictionaries(TEXTS, TEXTS, max_size=3)),
        checkpoint=checkpoint,
    )


def expected(grant: Grant, lane: Lane) -> lease_pb2.LeasedTask:
    task = lease_pb2.LeasedTask(
        lease_token=grant.token,
        task_id=str(uuid.UUID(bytes=grant.token[:16])),
        kind=lane.kind,
        attempt=grant.attempt,
        max_attempts=grant.max_attempts,
        queue=lane.queue,
        metadata=grant.metadata or {},
        concurrency_key=grant.concurrency_key or "",
        priority=lane.priority,
    )
    task.payload.type_url = CATALOG.kinds[lane.kind].type_url
    task.payload.value = grant.payload or b""
    task.timeout.FromMilliseconds(grant.timeout_ms)
    task.lease_duration.FromMilliseconds(grant.lease_ms)
    task.created_at.FromMicroseconds(grant.created_at)
    if grant.checkpoint is not None:
        task.checkpoint.ParseFromString(grant.checkpoint)
    return task


@given(st.lists(grants(), min_size=1, max_size=4), st.integers(-1000, 1000))
def test_leases_are_encoded_as_the_generated_classes_do(many: list[Grant], priority: int) -> None:
    """One encoder for all: what it remembers of one lease must not show in another."""
    encoder = frames.LeaseEncoder()
    kinds = ["startRun", "runFinished", "events.deliverScheduled"]
    lanes = {n: Lane(n, f"queue-{n}", kinds[n - 1], priority + n - 2) for n in (1, 2, 3)}
    frame = b"".join(
        encoder.encode(g, lanes[g.lane_id], CATALOG.kinds[lanes[g.lane_id].kind], g.payload or b"")
        for g in many
    )
    decoded = lease_pb2.LeaseResponse.FromString(frame)
    assert list(decoded.tasks) == [expected(grant, lanes[grant.lane_id]) for grant in many]


@given(
    st.lists(TOKENS, min_size=1, max_size=20),
    st.sampled_from(
        [
            lease_pb2.LEASE_OPERATION_ACK,
            lease_pb2.LEASE_OPERATION_NACK,
            lease_pb2.LEASE_OPERATION_HEARTBEAT,
        ]
    ),
)
def test_good_results_and_bad_ones(
    tokens: list[bytes], operation: lease_pb2.LeaseOperation
) -> None:
    status = status_pb2.Status(code=code_pb2.FAILED_PRECONDITION, message="lost")
    frame = frames.ok_results(tokens, operation) + frames.failed_result(b"t", operation, status)
    decoded = lease_pb2.LeaseResponse.FromString(frame)
    good = [lease_pb2.LeaseResult(lease_token=token, operation=operation) for token in tokens]
    bad = lease_pb2.LeaseResult(lease_token=b"t", operation=operation, error=status)
    assert list(decoded.results) == [*good, bad]


@pytest.mark.parametrize("reason", [1, 2, 3])
def test_a_cancellation(reason: int) -> None:
    decoded = lease_pb2.LeaseResponse.FromString(frames.cancellation(b"token", reason))
    assert [(c.lease_token, c.reason) for c in decoded.cancellations] == [(b"token", reason)]


@given(st.integers(0, 2**63 - 1))
def test_a_varint_reads_back(number: int) -> None:
    decoded = lease_pb2.LeaseRequest.FromString(b"\x10" + frames.varint(number & 0x7FFFFFFF))
    assert decoded.max_in_flight == number & 0x7FFFFFFF
    assert len(frames.varint(number)) == max(1, -(-number.bit_length() // 7))
