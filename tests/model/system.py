"""The real thing: a server by its stubs, with the streams that workers hold open."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc

from tests.model.records import SECOND, Ask, Refused, Unique
from tests.toolkit import packed, refusal, seconds
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import (
    lease_pb2,
    policy_pb2,
    queue_admin_pb2,
    task_admin_pb2,
    task_pb2,
    worker_queue_pb2,
)
from workerqueue.v1.worker_queue_admin_pb2_grpc import WorkerQueueAdminStub
from workerqueue.v1.worker_queue_pb2_grpc import WorkerQueueStub

LIMIT_SECONDS = 30.0
KINDS: dict[str, Callable[..., Any]] = {
    "runFinished": tasks_pb2.RunFinished,
    "connectionCreated": tasks_pb2.ConnectionCreated,
}
MODES = {
    "replace": policy_pb2.JOB_KEY_MODE_REPLACE,
    "preserve": policy_pb2.JOB_KEY_MODE_PRESERVE_RUN_AT,
    "dedupe": policy_pb2.JOB_KEY_MODE_UNSAFE_DEDUPE,
}
OUTCOMES = {
    worker_queue_pb2.ENQUEUE_OUTCOME_CREATED: "created",
    worker_queue_pb2.ENQUEUE_OUTCOME_ALREADY_EXISTED: "existed",
    worker_queue_pb2.ENQUEUE_OUTCOME_REPLACED: "replaced",
    worker_queue_pb2.ENQUEUE_OUTCOME_KEPT: "kept",
}
_LIVE = ("SCHEDULED", "AVAILABLE", "BLOCKED", "LEASED", "RETRYING")


@contextmanager
def refusals() -> Iterator[None]:
    """Turns a status into the contract's reason."""
    try:
        yield
    except grpc.RpcError as error:
        refused = refusal(error)
        if not refused.reason:
            raise
        raise Refused(refused.reason) from error


def micros(value: int) -> Any:
    """A Duration."""
    return seconds(value / SECOND)


class System:
    """Calls of one server."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.work = WorkerQueueStub(channel)
        self.admin = WorkerQueueAdminStub(channel)
        # Notified when a stream hears something.
        self.news = threading.Condition()

    def enqueue(self, ask: Ask) -> tuple[str, str]:
        """Outcome and task id."""
        try:
            answer = self.work.Enqueue(_request(ask), timeout=LIMIT_SECONDS)
        except grpc.RpcError as error:
            return _conflict(refusal(error))
        return OUTCOMES[answer.outcome], answer.task.task_id

    def enqueue_batch(self, asks: Sequence[Ask], *, strict: bool) -> list[tuple[str, str]]:
        """The same for each item."""
        answer = self.work.EnqueueBatch(
            worker_queue_pb2.EnqueueBatchRequest(tasks=map(_request, asks), all_or_nothing=strict),
            timeout=LIMIT_SECONDS,
        )
        return [
            _conflict(refusal(result.error))
            if result.HasField("error")
            else (OUTCOMES[result.outcome], result.task_id)
            for result in answer.results
        ]

    def take(
        self,
        queues: Sequence[str],
        kinds: Sequence[str],
        count: int,
        worker: str,
        lease: int | None,
    ) -> list[lease_pb2.LeasedTask]:
        """What a stream gets that says at once that it has no more to say."""
        subscribe = lease_pb2.Subscribe(
            worker_id=worker,
            queues=queues,
            kinds=kinds,
            max_in_flight=count,
            lease_duration=None if lease is None else micros(lease),
        )
        frames = self.work.Lease(
            iter([lease_pb2.LeaseRequest(subscribe=subscribe)]), timeout=LIMIT_SECONDS
        )
        return [task for frame in frames for task in frame.tasks]

    def ack(self, token: bytes, result: str) -> None:
        """Raises Refused, like the calls below."""
        with refusals():
            self.work.Ack(ack_request(token, result), timeout=LIMIT_SECONDS)

    def nack(self, token: bytes, **action: Any) -> None:
        with refusals():
            self.work.Nack(
                lease_pb2.NackRequest(lease_token=token, **action), timeout=LIMIT_SECONDS
            )

    def heartbeat(self, token: bytes, **news: Any) -> int:
        with refusals():
            answer = self.work.Heartbeat(
                lease_pb2.HeartbeatRequest(lease_token=token, **news), timeout=LIMIT_SECONDS
            )
        return answer.lease_expires_at.ToMicroseconds()

    def operate(self, call: str, request: Any) -> Any:
        """A call of WorkerQueueAdmin."""
        with refusals():
            return getattr(self.admin, call)(request, timeout=LIMIT_SECONDS)

    def tasks(self, queues: Sequence[str], *, live_only: bool) -> dict[str, task_pb2.Task]:
        """The queues' tasks."""
        states = _LIVE if live_only else ()
        found: dict[str, task_pb2.Task] = {}
        token = ""
        while True:
            page = self.operate(
                "ListTasks",
                task_admin_pb2.ListTasksRequest(
                    filter=task_admin_pb2.TaskFilter(
                        queues=queues, states=[f"TASK_STATE_{state}" for state in states]
                    ),
                    page_size=500,
                    page_token=token,
                    view=task_admin_pb2.TASK_VIEW_FULL,
                ),
            )
            # A task that finishes while the list is read may be in it twice.
            for task in page.tasks:
                found[task.task_id] = task
            token = page.next_page_token
            if not token:
                return found

    def attempts(self, task_id: str) -> list[tuple[int, str, str]]:
        """Number, worker and outcome of a task's attempts."""
        answer = self.operate("GetTask", task_admin_pb2.GetTaskRequest(task_id=task_id))
        return [
            (a.attempt, a.worker_id, task_pb2.AttemptOutcome.Name(a.outcome)[16:].lower())
            for a in answer.task.attempts
        ]

    def depths(self, name: str) -> dict[str, int]:
        """A queue's tasks by state, as its statistics tell."""
        try:
            answer = self.operate("GetQueue", queue_admin_pb2.GetQueueRequest(queue=name))
        except Refused as refused:
            if str(refused) != "QUEUE_NOT_FOUND":
                raise
            # Nothing was ever put into it.
            return {}
        return dict(answer.queue.statistics.tasks_by_state)


class Stream:
    """A worker's open stream."""

    def __init__(
        self, system: System, queues: Sequence[str], worker: str, window: int, held: Sequence[bytes]
    ) -> None:
        self.queues, self.worker, self.window = queues, worker, window
        self.ended = False
        self.welcome: lease_pb2.Welcome | None = None
        self.tasks: list[lease_pb2.LeasedTask] = []
        self.results: list[lease_pb2.LeaseResult] = []
        self.cancellations: list[tuple[bytes, str]] = []
        self._news = system.news
        self._frames: queue.SimpleQueue[lease_pb2.LeaseRequest | None] = queue.SimpleQueue()
        subscribe = lease_pb2.Subscribe(
            worker_id=worker, queues=queues, max_in_flight=window, held_lease_tokens=held
        )
        self.send(subscribe=subscribe)
        self._call = system.work.Lease(iter(self._frames.get, None))
        threading.Thread(target=self._read, daemon=True).start()
        self.until(lambda: self.welcome is not None)

    def send(self, **frame: Any) -> None:
        """Sends a frame."""
        self._frames.put(lease_pb2.LeaseRequest(**frame))

    def half_close(self) -> None:
        """Says that no more frames will come, and waits for the end."""
        self._frames.put(None)
        self.until(lambda: self.ended)

    def cut(self) -> None:
        """Breaks the stream off."""
        self._call.cancel()
        self._frames.put(None)
        self.until(lambda: self.ended)

    def until(self, ready: Callable[[], bool]) -> None:
        """Waits for news that make it true."""
        with self._news:
            assert self._news.wait_for(ready, LIMIT_SECONDS), "the stream hears nothing"

    def result(self, token: bytes) -> None:
        """Waits for the answer to an ack or nack. Raises Refused."""
        self.until(lambda: any(r.lease_token == token for r in self.results))
        (answer,) = self.results
        self.results.clear()
        if answer.HasField("error"):
            raise Refused(refusal(answer.error).reason)

    def _read(self) -> None:
        try:
            for frame in self._call:
                with self._news:
                    if frame.HasField("welcome"):
                        self.welcome = frame.welcome
                    self.tasks += frame.tasks
                    self.results += frame.results
                    for item in frame.cancellations:
                        reason = lease_pb2.CancellationReason.Name(item.reason)
                        reason = reason.removeprefix("CANCELLATION_REASON_")
                        self.cancellations.append((item.lease_token, reason))
                    self._news.notify_all()
        except grpc.RpcError:
            pass
        finally:
            with self._news:
                self.ended = True
                self._news.notify_all()


def ack_request(token: bytes, result: str) -> lease_pb2.AckRequest:
    """An ack with a result."""
    return lease_pb2.AckRequest(lease_token=token, result=packed(tasks_pb2.RunFinished(id=result)))


def unpacked(value: Any) -> str:
    """What `packed` was given; empty: nothing."""
    message = tasks_pb2.RunFinished()
    value.Unpack(message)
    return message.id


def _request(ask: Ask) -> worker_queue_pb2.EnqueueRequest:
    options = worker_queue_pb2.TaskOptions(
        queue=ask.queue,
        priority=ask.priority,
        max_attempts=ask.max_attempts,
        timeout=micros(ask.timeout),
        lease_duration=micros(ask.lease),
        concurrency_key=ask.key,
        concurrency_limit=ask.key_limit,
        retry=policy_pb2.RetryPolicy(
            initial_backoff=seconds(2), multiplier=2, max_backoff=seconds(10), jitter=0
        ),
    )
    for name in ("run_at", "expire_at"):
        if (moment := getattr(ask, name)) is not None:
            getattr(options, name).FromMicroseconds(moment)
    if ask.job_key:
        options.job_key, options.job_key_mode = ask.job_key, MODES[ask.mode]
    if ask.unique is not None:
        options.unique.CopyFrom(_unique(ask.unique))
    return worker_queue_pb2.EnqueueRequest(
        task_id=ask.task_id, payload=packed(KINDS[ask.kind](id=ask.payload)), options=options
    )


def _unique(asked: Unique) -> worker_queue_pb2.Unique:
    states = [*_LIVE, *(state.upper() for state in asked.counts_in)]
    unique = worker_queue_pb2.Unique(
        by_args=asked.by_args,
        by_queue=asked.by_queue,
        by_states=[f"TASK_STATE_{state}" for state in states],
    )
    if asked.period is not None:
        unique.by_period.CopyFrom(micros(asked.period))
    if asked.fail:
        unique.on_conflict = worker_queue_pb2.UNIQUE_CONFLICT_FAIL
    return unique


def _conflict(refused: Any) -> tuple[str, str]:
    if refused.reason == "BATCH_REFUSED":
        return "refused", ""
    assert refused.reason == "KEY_CONFLICT", refused
    return "conflict", refused.metadata["task_id"]
