"""Both clients against a scripted server: what travels, what is repeated, what is raised."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any as AnyType

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from google.rpc import error_details_pb2

from tests.unit.client.peer import Peer, error_status
from workerqueue import (
    AsyncClient,
    Client,
    EnqueueItem,
    EnqueueOutcome,
    InvalidPayloadError,
    InvalidRequestError,
    UnavailableError,
)
from workerqueue.tasks.v1.tasks_pb2 import StartRun

Call = Callable[..., AnyType]
RUN = StartRun(id="run_1")


def call_sync(peer: Peer, method: str, *args: AnyType, **options: AnyType) -> AnyType:
    with Client(peer.address, token="secret") as client:
        return getattr(client, method)(*args, **options)


def call_async(peer: Peer, method: str, *args: AnyType, **options: AnyType) -> AnyType:
    async def call() -> AnyType:
        async with AsyncClient(peer.address, token=lambda: "secret") as client:
            return await getattr(client, method)(*args, **options)

    return asyncio.run(call())


@pytest.fixture(params=[call_sync, call_async], ids=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    chosen: Call = request.param
    return chosen


def test_enqueue_answers_with_the_stored_task(peer: Peer, call: Call) -> None:
    handle = call(peer, "enqueue", RUN, queue="q")
    assert handle.outcome is EnqueueOutcome.CREATED
    assert handle.task_id == handle.task.task_id == peer.enqueued[0].task_id
    assert peer.enqueued[0].options.queue == "q"
    assert peer.metadata[0]["authorization"] == "Bearer secret"


def test_enqueue_dynamic_sends_kind_and_args(peer: Peer, call: Call) -> None:
    call(peer, "enqueue_dynamic", "startRun", {"id": "x", "n": [1, None, {"deep": True}]})
    dynamic = peer.enqueued[0].dynamic
    assert dynamic.kind == "startRun"
    assert MessageToDict(dynamic.args) == {"id": "x", "n": [1.0, None, {"deep": True}]}


def test_a_call_is_repeated_with_the_same_id_while_unavailable(peer: Peer, call: Call) -> None:
    peer.refusals = [error_status(grpc.StatusCode.UNAVAILABLE)] * 2
    handle = call(peer, "enqueue", RUN)
    assert handle.outcome is EnqueueOutcome.CREATED
    assert [request.task_id for request in peer.enqueued] == [handle.task_id] * 3


def test_unavailable_is_raised_when_it_lasts(peer: Peer, call: Call) -> None:
    peer.refusals = [error_status(grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")] * 5
    with pytest.raises(UnavailableError) as raised:
        call(peer, "enqueue", RUN)
    assert raised.value.reason == "DATABASE_UNAVAILABLE"
    assert len(peer.enqueued) == 5


def test_a_refusal_is_not_repeated_and_keeps_its_details(peer: Peer, call: Call) -> None:
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="payload.id", description="must not be empty")
    peer.refusals = [error_status(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAYLOAD", bad)]
    with pytest.raises(InvalidPayloadError) as raised:
        call(peer, "enqueue", RUN)
    assert raised.value.violations[0].field == "payload.id"
    assert len(peer.enqueued) == 1


def test_a_batch_has_a_result_per_item(peer: Peer, call: Call) -> None:
    results = call(peer, "enqueue_batch", [RUN, EnqueueItem(RUN, queue="refused"), RUN])
    assert [result.ok for result in results] == [True, False, True]
    assert isinstance(results[1].error, InvalidRequestError)
    assert results[1].outcome is None
    assert [result.task_id for result in results] == [task.task_id for task in peer.enqueued]


def test_the_address_comes_from_the_environment(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKERQUEUE_ADDRESS", peer.address)
    monkeypatch.setenv("WORKERQUEUE_TOKEN", "from-env")
    with Client() as client:
        client.enqueue(RUN)
    assert peer.metadata[0]["authorization"] == "Bearer from-env"
