"""Frames encoded by hand are what the generated classes would have made of them."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from google.rpc import code_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from workerqueue.v1 import lease_pb2, worker_queue_pb2
from workerqueue_server.queue.catalog import Catalog
from workerqueue_server.queue.varint import varint
from workerqueue_server.rpc import frames
from workerqueue_server.store.records import GrantRun, Lane

CATALOG = Catalog.load()
TOKENS = st.binary(min_size=24, max_size=24)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@st.composite
def runs(draw: st.DrawFn) -> GrantRun:
    checkpoint = None
    if draw(st.booleans()):
        packed: Any = lease_pb2.HeartbeatRequest().checkpoint
        packed.type_url = draw(TEXTS.filter(bool))
        packed.value = draw(st.binary(max_size=50))
        checkpoint = packed.SerializeToString()
    tokens = draw(st.lists(TOKENS, min_size=1, max_size=5))
    sizes = st.binary(max_size=300) | st.just(b"x" * 20_000) | st.just(b"%b")
    keys = draw(st.none() | st.lists(TEXTS, min_size=len(tokens), max_size=len(tokens)))
    return GrantRun(
        request=0,
        place=0,
        lane_id=draw(st.integers(1, 3)),
        attempt=draw(st.integers(1, 1000)),
        max_attempts=draw(st.integers(1, 1000)),
        timeout_ms=draw(st.integers(100, 7 * 86_400_000)),
        lease_ms=draw(st.integers(1_000, 3_600_000)),
        created_at=draw(st.integers(0, 253_402_300_799_999_999)),
        first_position=1,
        last_position=2**62,
        tokens=tokens,
        payloads=[draw(sizes) for _ in tokens],
        concurrency_keys=keys,
        args=None,
        metadata=draw(st.none() | st.dictionaries(TEXTS, TEXTS, max_size=3)),
        checkpoint=checkpoint,
    )


def expected(run: GrantRun, place: int, lane: Lane) -> lease_pb2.LeasedTask:
    task = lease_pb2.LeasedTask(
        lease_token=run.tokens[place],
        task_id=str(uuid.UUID(bytes=run.tokens[place][:16])),
        kind=lane.kind,
        attempt=run.attempt,
        max_attempts=run.max_attempts,
        queue=lane.queue,
        metadata=run.metadata or {},
        concurrency_key=run.concurrency_keys[place] if run.concurrency_keys else "",
        priority=lane.priority,
    )
    task.payload.type_url = CATALOG.kinds[lane.kind].type_url
    task.payload.value = run.payloads[place] or b""
    task.timeout.FromMilliseconds(run.timeout_ms)
    task.lease_duration.FromMilliseconds(run.lease_ms)
    task.created_at.FromMicroseconds(run.created_at)
    if run.checkpoint is not None:
        task.checkpoint.ParseFromString(run.checkpoint)
    return task


@given(st.lists(runs(), min_size=1, max_size=4), st.integers(-1000, 1000))
def test_leases_are_encoded_as_the_generated_classes_do(
    many: list[GrantRun], priority: int
) -> None:
    """One encoder for all: what it remembers of one run must not show in another."""
    encoder = frames.LeaseEncoder()
    kinds = ["startRun", "runFinished", "events.deliverScheduled"]
    lanes = {n: Lane(n, f"queue-{n}", kinds[n - 1], priority + n - 2) for n in (1, 2, 3)}
    frame = b"".join(
        part
        for run in many
        for part in encoder.encode(
            run,
            lanes[run.lane_id],
            CATALOG.kinds[lanes[run.lane_id].kind],
            [payload or b"" for payload in run.payloads],
        )
    )
    decoded = lease_pb2.LeaseResponse.FromString(frame)
    assert list(decoded.tasks) == [
        expected(run, place, lanes[run.lane_id]) for run in many for place in range(len(run.tokens))
    ]


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


@given(st.lists(TOKENS, min_size=1, max_size=20))
def test_frames_of_plain_acks_are_told_from_all_others(tokens: list[bytes]) -> None:
    plain = lease_pb2.LeaseRequest(acks=[{"lease_token": token} for token in tokens])
    assert frames.plain_acks(plain.SerializeToString()) == tokens
    others = [lease_pb2.LeaseRequest(), lease_pb2.LeaseRequest(drain=True)]
    changes: list[dict[str, Any]] = [
        {"max_in_flight": 3},
        {"nacks": [{"lease_token": tokens[0]}]},
        {"heartbeats": [{"lease_token": tokens[0]}]},
        {"acks": [{"lease_token": tokens[0], "result": {"type_url": "t"}}]},
        {"acks": [{"lease_token": tokens[0][:-1]}]},
        {"acks": [{}]},
    ]
    for change in changes:
        others.append(lease_pb2.LeaseRequest(**change))
        others[-1].MergeFrom(plain)
    for other in others:
        assert frames.plain_acks(other.SerializeToString()) is None


@given(
    st.binary(max_size=200)
    | st.lists(TOKENS).map(lambda t: b"".join(b"\x1a\x1a\x0a\x18" + x for x in t))
)
def test_what_is_read_as_plain_acks_is_that(data: bytes) -> None:
    tokens = frames.plain_acks(data)
    if tokens is not None:
        decoded = lease_pb2.LeaseRequest.FromString(data)
        assert decoded == lease_pb2.LeaseRequest(acks=[{"lease_token": t} for t in tokens])


@pytest.mark.parametrize("reason", [1, 2, 3])
def test_a_cancellation(reason: int) -> None:
    decoded = lease_pb2.LeaseResponse.FromString(frames.cancellation(b"token", reason))
    assert [(c.lease_token, c.reason) for c in decoded.cancellations] == [(b"token", reason)]


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=9), st.sampled_from([1, 2, 3, 300]))
def test_batch_results_of_one_outcome(ids: list[bytes], outcome: int) -> None:
    decoded = worker_queue_pb2.EnqueueBatchResponse.FromString(frames.batch_results(ids, outcome))
    assert [(uuid.UUID(r.task_id).bytes, r.outcome) for r in decoded.results] == [
        (task_id, outcome) for task_id in ids
    ]


@given(st.integers(0, 2**63 - 1))
def test_a_varint_reads_back(number: int) -> None:
    decoded = lease_pb2.LeaseRequest.FromString(b"\x10" + varint(number & 0x7FFFFFFF))
    assert decoded.max_in_flight == number & 0x7FFFFFFF
    assert len(varint(number)) == max(1, -(-number.bit_length() // 7))
