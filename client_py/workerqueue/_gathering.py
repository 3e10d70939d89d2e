"""Gathering concurrent ``enqueue`` calls of one client: what both clients share.

A call goes out at once, as an Enqueue, while nothing else is under way. Those that come meanwhile
wait for it to return and then go out together, as one EnqueueBatch; what comes during that one is
the next. So there is no timer, a lone call waits for nobody, and a busy client spends one call on
dozens of tasks. To its caller each remains a call of its own:

- An item's refusal is only its own. When a batch fails as a whole for another reason than that the
  server cannot be reached or does not want this client now, its items are sent one by one.
- A call's time runs from its start. A batch has the time of its oldest item, which is the one that
  ends first; when that is over, the younger ones are sent again.
- A task id is made before the first try, so that no repeat makes a second task.
- Tasks become available in the order of the calls.

Calls with a job key or uniqueness, which may have to wait for somebody else's transaction, go out
alone.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Iterable
from typing import Any as AnyType
from typing import Final, Generic, NamedTuple, TypeVar

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from workerqueue._enqueue import EnqueueOptions
from workerqueue._status import from_rpc_error, from_status
from workerqueue.v1 import policy_pb2, task_pb2, worker_queue_pb2

# One write of the server, and with the stored tasks in it still a small answer.
MAX_ITEMS: Final = 1_000
MAX_BYTES: Final = 1024 * 1024

# What a repeat of the same items one by one would only meet again.
_FOR_ALL: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    }
)


class Stored(NamedTuple):
    """The answer to one call."""

    outcome: worker_queue_pb2.EnqueueOutcome
    task: task_pb2.Task


class Item:
    """One call that is gathered."""

    __slots__ = ("deadline", "request")

    def __init__(self, request: worker_queue_pb2.EnqueueRequest, timeout: float) -> None:
        self.request = request
        self.deadline = time.monotonic() + timeout

    @property
    def is_open(self) -> bool:
        """Whether somebody still waits for an answer."""
        raise NotImplementedError

    def succeed(self, stored: Stored) -> None:
        """The answer; a second one is ignored."""
        raise NotImplementedError

    def fail(self, error: BaseException) -> None:
        """What the caller is to meet instead of an answer."""
        raise NotImplementedError

    @property
    def seconds_left(self) -> float:
        """Until its time is over."""
        return max(0.0, self.deadline - time.monotonic())


ItemT = TypeVar("ItemT", bound=Item)


class Line(Generic[ItemT]):
    """The calls that wait, oldest first."""

    def __init__(self) -> None:
        self._items: deque[ItemT] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: ItemT) -> None:
        """Waits behind all others."""
        self._items.append(item)

    def put_back(self, items: Iterable[ItemT]) -> None:
        """Wait before all others, in this order."""
        self._items.extendleft(reversed(list(items)))

    def first(self) -> ItemT | None:
        """The oldest for which somebody still waits."""
        while self._items and not self._items[0].is_open:
            self._items.popleft()
        return self._items[0] if self._items else None

    def take(self) -> list[ItemT]:
        """What goes out next."""
        taken: list[ItemT] = []
        size = 0
        while len(taken) < MAX_ITEMS and (item := self.first()) is not None:
            size += item.request.ByteSize()
            if taken and size > MAX_BYTES:
                break
            taken.append(item)
            self._items.popleft()
        return taken


def may_gather(payload: Message, options: EnqueueOptions) -> bool:
    """Whether the server surely stores the task without waiting for anybody else."""
    if options.get("job_key") or options.get("unique") is not None or isinstance(payload, Any):
        return False
    return options.get("job_key") is not None or not _has_job_key(payload.DESCRIPTOR)


@functools.lru_cache(maxsize=1024)
def _has_job_key(descriptor: Descriptor) -> bool:
    """Whether the kind's policy gives its tasks a job key."""
    extension: AnyType = policy_pb2.task
    return bool(descriptor.GetOptions().Extensions[extension].job_key)


def batch_request(items: Iterable[Item]) -> worker_queue_pb2.EnqueueBatchRequest:
    """The call that stores them all."""
    return worker_queue_pb2.EnqueueBatchRequest(
        tasks=[item.request for item in items], include_tasks=True
    )


def read_single(response: worker_queue_pb2.EnqueueResponse) -> Stored:
    """The answer to a call that went out alone."""
    return Stored(response.outcome, response.task)


def settle(
    items: list[ItemT], response: worker_queue_pb2.EnqueueBatchResponse
) -> list[tuple[ItemT, worker_queue_pb2.EnqueueOutcome]]:
    """Answers the calls of a batch; returns those whose task did not fit, with their outcome."""
    untold: list[tuple[ItemT, worker_queue_pb2.EnqueueOutcome]] = []
    for item, result in zip(items, response.results, strict=True):
        if result.HasField("task"):
            # A copy: the original would keep the whole batch's answer in memory.
            task = task_pb2.Task()
            task.CopyFrom(result.task)
            item.succeed(Stored(result.outcome, task))
        elif result.HasField("error"):
            item.fail(from_status(result.error))
        else:
            untold.append((item, result.outcome))
    return untold


def settle_failure(items: list[ItemT], error: grpc.RpcError) -> tuple[list[ItemT], list[ItemT]]:
    """Books a batch that failed as a whole; returns what to put back, and what to send singly."""
    failure = from_rpc_error(error)
    if failure.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        now = time.monotonic()
        # The oldest is over in any case, so that this comes to an end.
        fail_all([item for item in items if item is items[0] or item.deadline <= now], error)
        return [item for item in items if item.is_open], []
    if len(items) == 1 or (failure.code in _FOR_ALL and failure.reason != "KEY_BUSY"):
        fail_all(items, error)
        return [], []
    return [], items


def fail_all(items: Iterable[Item], error: grpc.RpcError) -> None:
    """The same failure for each call."""
    for item in items:
        # An exception for each caller: it grows a traceback of its own.
        failure = from_rpc_error(error)
        failure.__cause__ = error
        item.fail(failure)
