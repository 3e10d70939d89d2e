"""The load of ``workerqueue bench``: one producer and one worker, on the stubs alone."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from typing import Any

from workerqueue import uuid7
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import lease_pb2, worker_queue_pb2
from workerqueue_server.cli.connection import Remote
from workerqueue_server.cli.failures import Failure

QUEUE = "workerqueue-bench"
KIND = "runFinished"


def store(remote: Remote, tasks: int, batch: int, told: Callable[[int], None]) -> float:
    """Enqueues so many tasks in batches, one call after the other; the seconds it took."""
    started = time.monotonic()
    done = 0
    while done < tasks:
        size = min(batch, tasks - done)
        request = worker_queue_pb2.EnqueueBatchRequest(tasks=[_request() for _ in range(size)])
        answer = remote.call(remote.queue.EnqueueBatch, request)
        if any(result.HasField("error") for result in answer.results):
            raise Failure("the server refused tasks of a batch")
        done += size
        told(done)
    return time.monotonic() - started


class Drainer:
    """A worker that acks whatever it gets."""

    def __init__(self, remote: Remote, window: int) -> None:
        self._remote = remote
        self._frames: queue.SimpleQueue[lease_pb2.LeaseRequest | None] = queue.SimpleQueue()
        subscribe = lease_pb2.Subscribe(
            worker_id=f"workerqueue-bench-{uuid7()}", queues=[QUEUE], max_in_flight=window
        )
        self._frames.put(lease_pb2.LeaseRequest(subscribe=subscribe))
        self._call: Any = remote.stream(remote.queue.Lease, self._sent())
        self._answers = iter(self._call)

    def drain(self, tasks: int, told: Callable[[int], None]) -> float:
        """Takes and finishes so many tasks; the seconds until the last ack was confirmed."""
        started = time.monotonic()
        acked = 0
        while acked < tasks:
            answer = self._next()
            self._ack(answer)
            acked += _confirmed(answer)
            told(acked)
        return time.monotonic() - started

    def latency(self) -> float:
        """Seconds from the call that stores a task to its arrival here."""
        started = time.monotonic()
        self._remote.call(self._remote.queue.Enqueue, _request())
        arrived = 0.0
        # Until the ack is confirmed, so that the next one finds the server idle.
        while True:
            answer = self._next()
            if answer.tasks and not arrived:
                arrived = time.monotonic() - started
            self._ack(answer)
            if _confirmed(answer):
                return arrived

    def close(self) -> None:
        """Ends the stream; what is leased and not acked goes back by its lease clock."""
        self._frames.put(None)
        self._call.cancel()

    def _sent(self) -> Iterator[lease_pb2.LeaseRequest]:
        while (frame := self._frames.get()) is not None:
            yield frame

    def _next(self) -> lease_pb2.LeaseResponse:
        answer: lease_pb2.LeaseResponse | None = next(self._answers, None)
        if answer is None:
            raise Failure("the server ended the worker's stream")
        return answer

    def _ack(self, answer: lease_pb2.LeaseResponse) -> None:
        if answer.tasks:
            acks = [lease_pb2.AckRequest(lease_token=task.lease_token) for task in answer.tasks]
            self._frames.put(lease_pb2.LeaseRequest(acks=acks))


def _confirmed(answer: lease_pb2.LeaseResponse) -> int:
    for result in answer.results:
        if result.HasField("error"):
            raise Failure(f"an ack was refused: {result.error.message}")
    return len(answer.results)


def _request() -> worker_queue_pb2.EnqueueRequest:
    request = worker_queue_pb2.EnqueueRequest(
        task_id=uuid7(), options=worker_queue_pb2.TaskOptions(queue=QUEUE)
    )
    request.payload.Pack(tasks_pb2.RunFinished(id="workerqueue-bench"))
    return request
