"""Concurrent enqueue calls of one client travel together and stay calls of their own."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any as AnyType

import grpc
import pytest

from tests.unit.client.peer import PATIENCE, Peer, error_status
from workerqueue import (
    AsyncClient,
    Client,
    DeadlineError,
    EnqueueOutcome,
    InvalidRequestError,
    ServerError,
    UnavailableError,
    Unique,
)
from workerqueue._gatherer import Gatherer
from workerqueue.tasks.v1.tasks_pb2 import StartRun
from workerqueue.v1.worker_queue_pb2 import (
    EnqueueBatchRequest,
    EnqueueBatchResponse,
    EnqueueRequest,
    EnqueueResponse,
)

Options = dict[str, AnyType]
Outcome = AnyType
# Runs the calls of one client: the first alone and, while the peer holds it, the others behind it,
# in this order. Returns each one's handle or exception.
Enqueue = Callable[[Peer, Sequence[Options]], list[Outcome]]


def run(number: int) -> StartRun:
    return StartRun(id=str(number))


def enqueue_in_threads(peer: Peer, calls: Sequence[Options]) -> list[Outcome]:
    def one(client: Client, number: int) -> Outcome:
        try:
            return client.enqueue(run(number), **calls[number])
        except Exception as error:  # noqa: BLE001 - it is what the test looks at
            return error

    peer.answering.clear()
    with Client(peer.address) as client, ThreadPoolExecutor(len(calls)) as pool:
        line = client._gatherer._line  # noqa: SLF001
        first = pool.submit(one, client, 0)
        assert peer.arrivals.acquire(timeout=PATIENCE)
        others: list[Future[Outcome]] = []
        for number in range(1, len(calls)):
            before = len(line)
            others.append(pool.submit(one, client, number))
            _wait_until(functools.partial(_is_longer, line, before))
        peer.answering.set()
        return [done.result(PATIENCE) for done in (first, *others)]


def enqueue_on_a_loop(peer: Peer, calls: Sequence[Options]) -> list[Outcome]:
    async def all_of_them() -> list[Outcome]:
        async with AsyncClient(peer.address) as client:
            tasks = [
                asyncio.create_task(client.enqueue(run(number), **options))
                for number, options in enumerate(calls)
            ]
            await asyncio.to_thread(peer.arrivals.acquire, timeout=PATIENCE)
            peer.answering.set()
            return await asyncio.gather(*tasks, return_exceptions=True)

    peer.answering.clear()
    return asyncio.run(all_of_them())


def _is_longer(line: Sized, before: int) -> bool:
    return len(line) > before


def _wait_until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.002)):
        if condition():
            return
        pause.wait(0.002)
    raise AssertionError("a call did not get in line")


@pytest.fixture(params=[enqueue_in_threads, enqueue_on_a_loop], ids=["threads", "loop"])
def enqueue(request: pytest.FixtureRequest) -> Enqueue:
    chosen: Enqueue = request.param
    return chosen


def ids(peer: Peer) -> list[str]:
    return [StartRun.FromString(request.payload.value).id for request in peer.enqueued]


def test_what_comes_meanwhile_goes_out_as_one_batch_in_order(peer: Peer, enqueue: Enqueue) -> None:
    handles = enqueue(peer, [{}] * 6)
    assert peer.batches == [5]
    assert ids(peer) == list("012345")
    for handle, request in zip(handles, peer.enqueued, strict=True):
        assert handle.outcome is EnqueueOutcome.CREATED
        assert handle.task_id == handle.task.task_id == request.task_id


def test_a_lone_call_goes_out_as_it_is(peer: Peer) -> None:
    with Client(peer.address) as client:
        for number in range(3):
            client.enqueue(run(number))
    assert (peer.batches, ids(peer)) == ([], list("012"))


def test_a_refusal_is_only_its_own(peer: Peer, enqueue: Enqueue) -> None:
    outcomes = enqueue(peer, [{}, {}, {"queue": "refused"}, {}])
    assert peer.batches == [3]
    assert isinstance(outcomes[2], InvalidRequestError)
    assert [isinstance(o, Exception) for o in outcomes] == [False, False, True, False]


def test_calls_with_keys_do_not_wait_for_others(peer: Peer) -> None:
    enqueue_on_a_loop(peer, [{}, {"job_key": "k"}, {}, {"unique": Unique(by_args=True)}, {}])
    assert peer.batches == [2]


def test_a_batch_that_fails_as_a_whole_is_sent_one_by_one(peer: Peer, enqueue: Enqueue) -> None:
    good = error_status(grpc.StatusCode.OK)
    peer.refusals = [good, error_status(grpc.StatusCode.INTERNAL, "INTERNAL")]
    handles = enqueue(peer, [{}] * 4)
    assert peer.batches == [3]
    assert sorted(ids(peer)) == list("0123")
    assert all(handle.outcome is EnqueueOutcome.CREATED for handle in handles)


def test_a_bad_one_of_a_batch_that_failed_as_a_whole(peer: Peer, enqueue: Enqueue) -> None:
    internal = error_status(grpc.StatusCode.INTERNAL, "INTERNAL")
    peer.refusals = [error_status(grpc.StatusCode.OK), internal, internal]
    outcomes = enqueue(peer, [{}] * 4)
    assert sum(isinstance(outcome, ServerError) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Exception) for outcome in outcomes) == 1


def test_what_all_would_meet_is_told_to_all(peer: Peer, enqueue: Enqueue) -> None:
    away = error_status(grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")
    peer.refusals = [error_status(grpc.StatusCode.OK), *[away] * 5]
    outcomes = enqueue(peer, [{}] * 4)
    # Repeated by gRPC, as a call of one task is.
    assert peer.batches == [3] * 5
    assert all(isinstance(outcome, UnavailableError) for outcome in outcomes[1:])
    assert len({id(outcome) for outcome in outcomes[1:]}) == 3


def test_a_task_that_the_answer_leaves_out_is_asked_for(peer: Peer, enqueue: Enqueue) -> None:
    peer.untold = {"large"}
    handles = enqueue(peer, [{}, {"queue": "large"}, {}])
    assert peer.batches == [2]
    assert handles[1].task.task_id == peer.enqueued[1].task_id
    assert [request.options.queue for request in peer.enqueued] == ["", "large", "", "large"]
    assert peer.enqueued[1].task_id == peer.enqueued[3].task_id


async def test_a_cancelled_call_is_not_sent_and_harms_nobody(peer: Peer) -> None:
    peer.answering.clear()
    async with AsyncClient(peer.address) as client:
        calls = [asyncio.create_task(client.enqueue(run(number))) for number in range(4)]
        await asyncio.to_thread(peer.arrivals.acquire, timeout=PATIENCE)
        calls[2].cancel()
        peer.answering.set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(outcomes[2], asyncio.CancelledError)
    assert (peer.batches, ids(peer)) == ([2], list("013"))


async def test_the_call_under_way_may_be_cancelled(peer: Peer) -> None:
    peer.answering.clear()
    async with AsyncClient(peer.address) as client:
        calls = [asyncio.create_task(client.enqueue(run(number))) for number in range(3)]
        await asyncio.to_thread(peer.arrivals.acquire, timeout=PATIENCE)
        calls[0].cancel()
        await asyncio.to_thread(peer.arrivals.acquire, timeout=PATIENCE)
        # The others' batch is under way now; one of its callers leaves it.
        calls[1].cancel()
        peer.answering.set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes[:2]] == [asyncio.CancelledError] * 2
    assert outcomes[2].outcome is EnqueueOutcome.CREATED  # type: ignore[union-attr]
    assert peer.batches == [2]


async def test_closing_ends_calls_under_way_and_those_that_wait(peer: Peer) -> None:
    peer.answering.clear()
    client = AsyncClient(peer.address)
    calls = [asyncio.create_task(client.enqueue(run(number))) for number in range(3)]
    await asyncio.to_thread(peer.arrivals.acquire, timeout=PATIENCE)
    await client.close()
    done, waiting = await asyncio.wait(calls, timeout=PATIENCE)
    peer.answering.set()
    assert not waiting
    assert all(call.cancelled() or call.exception() is not None for call in done)


def test_each_call_has_its_own_time(peer: Peer) -> None:
    """A batch ends with its oldest item's time; the younger ones go out again."""
    calls = _Scripted()
    gatherer = Gatherer(calls, timeout=30)
    line = gatherer._line  # noqa: SLF001
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(gatherer.enqueue, EnqueueRequest(task_id="a"))
        assert calls.arrived.acquire(timeout=PATIENCE)
        others = []
        for name in ("b", "c"):
            before = len(line)
            others.append(pool.submit(gatherer.enqueue, EnqueueRequest(task_id=name)))
            _wait_until(functools.partial(_is_longer, line, before))
        calls.go.set()
        assert first.result(PATIENCE).task.task_id == "a"
        assert isinstance(others[0].exception(PATIENCE), DeadlineError)
        assert others[1].result(PATIENCE).task.task_id == "c"
    assert calls.sent == [["a"], ["b", "c"], ["c"]]


class _Late(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.DEADLINE_EXCEEDED

    def details(self) -> str:
        return "late"


class _Scripted:
    """Holds the first call, and lets the first batch run out of time."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self.arrived = threading.Semaphore(0)
        self.go = threading.Event()

    def enqueue(self, request: EnqueueRequest, timeout: float) -> EnqueueResponse:
        self.sent.append([request.task_id])
        self.arrived.release()
        assert self.go.wait(PATIENCE)
        response = EnqueueResponse()
        response.task.task_id = request.task_id
        return response

    def start_enqueue(self, request: EnqueueRequest, timeout: float) -> AnyType:
        raise AssertionError("nothing is to be sent singly")

    def enqueue_batch(self, request: EnqueueBatchRequest, timeout: float) -> EnqueueBatchResponse:
        assert timeout <= 30
        self.sent.append([task.task_id for task in request.tasks])
        raise _Late


def test_a_failing_token_function_is_told_to_each(peer: Peer) -> None:
    def token() -> str:
        raise LookupError("no token")

    with Client(peer.address, token=token) as client, ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(client.enqueue, run(number)) for number in range(8)]
        assert all(isinstance(call.exception(PATIENCE), LookupError) for call in calls)
