"""How a handler's end becomes the answer for its attempt."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any as AnyType

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from tests.unit.client.conftest import Running
from tests.unit.client.peer import Peer, leased
from workerqueue import Discard, RetryLater, Snooze, SyncTaskContext, TaskContext, Worker
from workerqueue.tasks.v1.tasks_pb2 import StartRun, StopVM
from workerqueue.v1 import lease_pb2

Answers = Callable[[AnyType], Awaitable[tuple[list[lease_pb2.AckRequest], lease_pb2.NackRequest]]]


async def answer_to(
    peer: Peer, running: Running, handler: Callable[..., AnyType], **fields: AnyType
) -> lease_pb2.AckRequest | lease_pb2.NackRequest:
    """Runs one task through ``handler`` and returns what the server was told."""
    worker = Worker(peer.address)
    worker.register(StartRun, handler)
    async with running(worker):
        session = await asyncio.to_thread(peer.session)
        task = leased(StartRun(id="run_1"), **fields)
        session.send_tasks(task)
        await asyncio.to_thread(session.wait, lambda s: s.acks or s.nacks)
        answer: lease_pb2.AckRequest | lease_pb2.NackRequest = (session.acks or session.nacks)[0]
        assert answer.lease_token == task.lease_token
        return answer


async def returns_nothing(payload: StartRun, ctx: TaskContext) -> None:
    assert payload.id == "run_1"
    assert ctx.kind == "startRun"


async def takes_only_payload(payload: StartRun) -> None:
    assert payload.id == "run_1"


def in_a_thread(payload: StartRun, ctx: SyncTaskContext) -> None:
    assert payload.id == "run_1"
    assert ctx.max_attempts == 3
    assert threading.current_thread() is not threading.main_thread()


def in_a_thread_payload_only(payload: StartRun) -> None:
    assert threading.current_thread() is not threading.main_thread()


class CallableObject:
    async def __call__(self, payload: StartRun, ctx: TaskContext) -> None:
        assert asyncio.current_task() is not None


async def with_more(more: str, payload: StartRun, ctx: TaskContext) -> None:
    assert more == "more"
    assert ctx.attempt == 1


@pytest.mark.parametrize(
    "handler",
    [
        returns_nothing,
        takes_only_payload,
        in_a_thread,
        in_a_thread_payload_only,
        CallableObject(),
        functools.partial(with_more, "more"),
    ],
)
async def test_every_form_of_handler_is_called_and_acked(
    peer: Peer, running: Running, handler: Callable[..., AnyType]
) -> None:
    answer = await answer_to(peer, running, handler)
    assert isinstance(answer, lease_pb2.AckRequest), answer
    assert not answer.HasField("result")


async def test_a_returned_message_is_the_result(peer: Peer, running: Running) -> None:
    async def handler(payload: StartRun) -> Message:
        return StopVM(id="vm_1")

    answer = await answer_to(peer, running, handler)
    assert isinstance(answer, lease_pb2.AckRequest)
    result = StopVM()
    assert answer.result.Unpack(result)
    assert result.id == "vm_1"


@pytest.mark.parametrize(
    ("returned", "error_type"),
    [("text", "InvalidResult"), (StopVM(id="x" * 1_048_577), "ResultTooLarge")],
)
async def test_a_result_that_cannot_be_stored_fails_the_attempt(
    peer: Peer, running: Running, returned: object, error_type: str
) -> None:
    async def handler(payload: StartRun) -> AnyType:
        return returned

    answer = await answer_to(peer, running, handler)
    assert isinstance(answer, lease_pb2.NackRequest)
    assert answer.fail.error.type == error_type


def raises_sync(payload: StartRun) -> None:
    raise LookupError("no such run")


async def raises_async(payload: StartRun) -> None:
    raises_sync(payload)


@pytest.mark.parametrize("handler", [raises_sync, raises_async])
async def test_an_exception_fails_the_attempt_with_type_message_and_trace(
    peer: Peer, running: Running, handler: Callable[..., AnyType]
) -> None:
    answer = await answer_to(peer, running, handler)
    assert isinstance(answer, lease_pb2.NackRequest)
    fail = answer.fail
    assert (fail.error.type, fail.error.message) == ("LookupError", "no such run")
    assert "raises_sync" in fail.error.trace
    assert "runner.py" not in fail.error.trace
    assert not fail.permanent
    assert not fail.HasField("retry_after")


async def test_a_huge_error_is_cut_to_what_is_kept(peer: Peer, running: Running) -> None:
    async def handler(payload: StartRun) -> None:
        raise ValueError("ü" * 100_000)

    answer = await answer_to(peer, running, handler)
    assert isinstance(answer, lease_pb2.NackRequest)
    assert len(answer.fail.error.message.encode()) == 8192
    assert 30_000 < len(answer.fail.error.trace.encode()) <= 32_768


async def test_discard_is_a_permanent_failure(peer: Peer, running: Running) -> None:
    async def handler(payload: StartRun) -> None:
        raise Discard("the run is gone")

    answer = await answer_to(peer, running, handler)
    assert isinstance(answer, lease_pb2.NackRequest)
    assert answer.fail.permanent
    assert answer.fail.error.message == "the run is gone"


async def test_retry_later_is_a_failure_with_its_own_wait(peer: Peer, running: Running) -> None:
    async def handler(payload: StartRun) -> None:
        raise RetryLater(timedelta(minutes=5), "rate limited")

    answer = await answer_to(peer, running, handler)
    assert isinstance(answer, lease_pb2.NackRequest)
    assert answer.fail.retry_after.seconds == 300
    assert not answer.fail.permanent
    assert answer.fail.error.message == "rate limited"


async def test_snooze_is_no_failure(peer: Peer, running: Running) -> None:
    def handler(payload: StartRun) -> None:
        raise Snooze(1.5)

    answer = await answer_to(peer, running, handler)
    assert isinstance(answer, lease_pb2.NackRequest)
    assert answer.WhichOneof("action") == "snooze"
    assert answer.snooze.delay.ToMilliseconds() == 1500


@pytest.mark.parametrize("delay", [-1, float("inf"), 31 * 86400])
def test_a_wait_out_of_range_is_refused_where_it_is_raised(delay: float) -> None:
    with pytest.raises(ValueError, match="delay must be"):
        RetryLater(delay)
    with pytest.raises(ValueError, match="delay must be"):
        Snooze(delay)


async def test_a_task_without_a_handler_is_put_off_uncharged(peer: Peer, running: Running) -> None:
    answer = await answer_to(peer, running, returns_nothing, kind="somethingNew")
    assert isinstance(answer, lease_pb2.NackRequest)
    assert answer.snooze.delay.seconds == 30


@pytest.mark.parametrize(
    "payload",
    [
        Any(type_url="type.googleapis.com/workerqueue.tasks.v1.StopVM"),
        Any(type_url="type.googleapis.com/workerqueue.tasks.v1.StartRun", value=b"\xff\xff"),
    ],
)
async def test_a_payload_that_is_not_the_message_fails_the_attempt(
    peer: Peer, running: Running, payload: Any
) -> None:
    answer = await answer_to(peer, running, returns_nothing, payload=payload)
    assert isinstance(answer, lease_pb2.NackRequest)
    assert answer.fail.error.type == "PayloadError"
    assert not answer.fail.permanent


async def test_a_raw_kind_gets_the_payload_as_it_came(peer: Peer, running: Running) -> None:
    got: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def handler(payload: Any) -> None:
        got.set_result(payload)

    worker = Worker(peer.address)
    worker.register_kind("acme.raw", handler)
    async with running(worker):
        session = await asyncio.to_thread(peer.session)
        assert session.subscribe.kinds == ["acme.raw"]
        task = leased(StartRun(id="x"), kind="acme.raw")
        session.send_tasks(task)
        assert await got == task.payload


def test_handlers_that_cannot_work_are_refused_at_once() -> None:
    worker = Worker()
    worker.register(StartRun, takes_only_payload)
    with pytest.raises(ValueError, match="has a handler already"):
        worker.register(StartRun, takes_only_payload)
    with pytest.raises(TypeError, match="takes a payload"):
        worker.register(StopVM, lambda: None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="takes a payload"):
        worker.register(StopVM, lambda a, b, c: None)  # type: ignore[arg-type]
