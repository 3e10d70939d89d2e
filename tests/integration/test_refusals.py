"""What no handler of the contract's services sees is refused with a reason, too."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from tests.servers import ServerProcess
from tests.toolkit import Api, dynamic, refused, request, seconds
from workerqueue.v1 import lease_pb2, worker_queue_pb2
from workerqueue_server.queue import bounds

_ENQUEUE = "/workerqueue.v1.WorkerQueue/Enqueue"
_LEASE = "/workerqueue.v1.WorkerQueue/Lease"
_HEALTH = "/grpc.health.v1.Health"
_REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
_GARBAGE = b"\xff\xff"


async def _unary(api: Api, path: str, data: bytes, **options: Any) -> bytes:
    call: Any = api.channel.unary_unary(path)
    return bytes(await call(data, timeout=30, **options))


async def _streamed(api: Api, path: str, *messages: bytes) -> list[bytes]:
    call: Any = api.channel.stream_stream(path)
    return [answer async for answer in call(iter(messages), timeout=30)]


async def _watched(api: Api, path: str, data: bytes) -> bytes:
    call: Any = api.channel.unary_stream(path)
    async for answer in call(data, timeout=30):
        return bytes(answer)
    raise AssertionError("no answer")


@pytest.mark.parametrize(
    "path", ["/workerqueue.v1.WorkerQueue/Enqeue", "/no.Such/Method", "/grpc.health.v1.Health/List"]
)
async def test_an_unknown_method_is_named(api: Api, path: str) -> None:
    for call in (_unary(api, path, b""), _streamed(api, path, b"")):
        problem = await refused(call)
        assert (problem.code, problem.reason) == (
            grpc.StatusCode.UNIMPLEMENTED,
            "UNKNOWN_METHOD",
        )
        assert path in problem.message


@pytest.mark.parametrize(
    "call",
    [
        lambda api: _unary(api, _ENQUEUE, _GARBAGE),
        lambda api: _streamed(api, _LEASE, _GARBAGE),
        lambda api: _watched(api, "/workerqueue.v1.WorkerQueueAdmin/WatchTask", _GARBAGE),
        lambda api: _unary(api, f"{_HEALTH}/Check", _GARBAGE),
        lambda api: _watched(api, f"{_HEALTH}/Watch", _GARBAGE),
        lambda api: _streamed(api, _REFLECTION, _GARBAGE),
    ],
    ids=["unary", "bidi", "server stream", "health", "health watch", "reflection"],
)
async def test_bytes_that_are_no_message_are_refused_on_every_path(api: Api, call: Any) -> None:
    problem = await refused(call(api))
    assert (problem.code, problem.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "MALFORMED_MESSAGE",
    )
    assert "Error" not in problem.message


async def test_health_and_reflection_answer_as_before(api: Api) -> None:
    assert await _unary(api, f"{_HEALTH}/Check", b"") == b"\x08\x01"
    assert await _watched(api, f"{_HEALTH}/Watch", b"") == b"\x08\x01"
    problem = await refused(_unary(api, f"{_HEALTH}/Check", b"\x0a\x02no"))
    assert problem.code == grpc.StatusCode.NOT_FOUND
    (listed,) = await _streamed(api, _REFLECTION, b"\x3a\x00")
    assert b"workerqueue.v1.WorkerQueue" in listed


async def test_a_message_over_the_limit_is_refused_with_its_size(api: Api) -> None:
    payload = b"\x12\x80\x80\x80\x02" + bytes(bounds.MESSAGE_BYTES)
    for call in (_unary(api, _ENQUEUE, payload), _streamed(api, _LEASE, payload)):
        problem = await refused(call)
        assert (problem.code, problem.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TOO_LARGE")
        assert str(len(payload)) in problem.message
        assert "request" in problem.fields


async def test_far_over_the_limit_grpc_itself_refuses(api: Api) -> None:
    """Without a reason: the bytes are never read."""
    problem = await refused(_unary(api, _ENQUEUE, bytes(3 * bounds.MESSAGE_BYTES)))
    assert (problem.code, problem.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "")


async def test_a_small_message_that_unpacks_to_a_huge_one_is_refused(api: Api) -> None:
    huge = bytes(8 * bounds.MESSAGE_BYTES)
    call = _unary(api, _ENQUEUE, huge, compression=grpc.Compression.Gzip)
    assert (await refused(call)).code == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_compressed_requests_are_read(api: Api) -> None:
    data = request().SerializeToString()
    answer = await _unary(api, _ENQUEUE, data, compression=grpc.Compression.Gzip)
    made = worker_queue_pb2.EnqueueResponse.FromString(answer)
    assert made.outcome == worker_queue_pb2.ENQUEUE_OUTCOME_CREATED


async def test_an_error_with_ten_thousand_violations_arrives_whole(api: Api) -> None:
    subscribe = lease_pb2.Subscribe(worker_id="w", queues=["\U0001f4a5" * 40] * 10_000)
    first = lease_pb2.LeaseRequest(subscribe=subscribe)
    problem = await refused(_streamed(api, _LEASE, first.SerializeToString()))
    assert (problem.code, problem.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELD",
    )
    assert "subscribe.queues[0]" in problem.fields
    assert any("not shown" in text for text in problem.fields.values())


async def test_a_stream_that_breaks_the_protocol_hears_so_whatever_is_being_written(
    api: Api, queue: str
) -> None:
    """A write that is cut short leaves the stream without an end."""
    subscribe = lease_pb2.Subscribe(worker_id="w", queues=[queue], max_in_flight=10_000)
    frames = [
        lease_pb2.LeaseRequest(subscribe=subscribe).SerializeToString(),
        *[b""] * 3,
        # The last: a client that still writes when the stream ends does not see the status.
        _GARBAGE,
    ]
    for _ in range(60):
        await api.ids([request(queue=queue, max_attempts=1_000)] * 200)
        problem = await refused(_streamed(api, _LEASE, *frames))
        assert problem.reason == "MALFORMED_MESSAGE", problem


async def test_calls_that_their_clients_cancel_leave_nothing_behind(
    api: Api, server: ServerProcess, queue: str
) -> None:
    watched = await api.enqueue(queue=queue, delay=seconds(3600))
    data = b"\x0a\x24" + watched.task_id.encode()
    enqueue: Any = api.channel.unary_unary(_ENQUEUE)
    watch: Any = api.channel.unary_stream("/workerqueue.v1.WorkerQueueAdmin/WatchTask")
    health: Any = api.channel.unary_stream(f"{_HEALTH}/Watch")
    calls: list[Any] = []
    for _ in range(20):
        calls.append(enqueue(request().SerializeToString()))
        for stream in (watch(data), health(b"")):
            await anext(aiter(stream))
            calls.append(stream)
    for call in calls:
        call.cancel()
    ended = await asyncio.gather(*(call.code() for call in calls))
    assert set(ended) <= {grpc.StatusCode.CANCELLED, grpc.StatusCode.OK}
    # The module's server fails the test at its end if it logged a fault.
    await api.enqueue(queue=queue)


async def test_numbers_that_json_has_not_are_the_callers_fault(api: Api) -> None:
    for number in (float("nan"), float("inf")):
        made = dynamic("registerJob")
        made.dynamic.args.fields["job"].struct_value.fields["n"].number_value = number
        problem = await refused(api.send(made))
        assert (problem.code, problem.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_PAYLOAD",
        )
        assert "dynamic.args" in problem.fields


async def test_any_token_of_the_right_length_is_only_a_lost_lease(api: Api) -> None:
    for token in (b"\xff" * 24, b"\x7f" * 24, bytes(24)):
        for call in (api.ack(token), api.release(token), api.heartbeat(token)):
            assert (await refused(call)).reason == "LEASE_LOST"
