"""Building enqueue calls and reading their answers: pure functions that every client shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any as AnyType
from typing import Final, TypedDict, Unpack

from google.protobuf import json_format
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from workerqueue import _tracing
from workerqueue._convert import to_duration, to_timestamp
from workerqueue._errors import TooLargeError, WorkerQueueError
from workerqueue._outcomes import EnqueueOutcome, outcome_of
from workerqueue._status import from_status
from workerqueue._unique import JobKeyMode, Unique, mode_to_proto
from workerqueue._uuid7 import uuid7
from workerqueue.v1 import policy_pb2, worker_queue_pb2

MAX_BATCH_ITEMS: Final = 10_000
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024

JsonValue = None | bool | int | float | str | Sequence["JsonValue"] | Mapping[str, "JsonValue"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff; replaces the kind's retry policy as a whole.

    Attempt n waits ``initial_backoff * multiplier ** (n - 1)``, at most ``max_backoff``, spread by
    ``jitter``.

    Attributes:
        initial_backoff: The wait after the first failed attempt, as a timedelta or in seconds;
            1 ms to 1 day. Default: 1 s.
        multiplier: The factor from one wait to the next, 1 to 100. Default: 2.
        max_backoff: The longest wait, 1 ms to 30 days. Default: 1 hour.
        jitter: Random spread as a share of the wait, 0 to 1. Default: 0.1 (plus or minus 10 %).
    """

    initial_backoff: timedelta | float | None = None
    multiplier: float | None = None
    max_backoff: timedelta | float | None = None
    jitter: float | None = None

    def to_proto(self) -> policy_pb2.RetryPolicy:
        """The contract's message."""
        message = policy_pb2.RetryPolicy(multiplier=self.multiplier or 0.0, jitter=self.jitter)
        if self.initial_backoff is not None:
            message.initial_backoff.CopyFrom(to_duration(self.initial_backoff, "initial_backoff"))
        if self.max_backoff is not None:
            message.max_backoff.CopyFrom(to_duration(self.max_backoff, "max_backoff"))
        return message


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long a finished task is kept, by the state it ended in; 0 s to 30 days each.

    A field that is None keeps the kind's policy.

    Attributes:
        succeeded: Tasks that succeeded, as a timedelta or in seconds. Default: 1 day.
        dead: Tasks out of attempts or failed permanently. Default: 14 days.
        cancelled: Tasks that were cancelled. Default: 1 day.
        expired: Tasks not started by their ``expire_at``. Default: 1 day.
    """

    succeeded: timedelta | float | None = None
    dead: timedelta | float | None = None
    cancelled: timedelta | float | None = None
    expired: timedelta | float | None = None

    def to_proto(self) -> policy_pb2.RetentionPolicy:
        """The contract's message."""
        message = policy_pb2.RetentionPolicy()
        if self.succeeded is not None:
            message.succeeded.CopyFrom(to_duration(self.succeeded, "succeeded"))
        if self.dead is not None:
            message.dead.CopyFrom(to_duration(self.dead, "dead"))
        if self.cancelled is not None:
            message.cancelled.CopyFrom(to_duration(self.cancelled, "cancelled"))
        if self.expired is not None:
            message.expired.CopyFrom(to_duration(self.expired, "expired"))
        return message


class EnqueueOptions(TypedDict, total=False):
    """The keyword arguments of every enqueue call; each overrides the kind's policy.

    An option that is left out, or None, keeps the policy. Durations are a timedelta or a number of
    seconds; times are aware datetimes (a naive one raises ValueError).
    """

    task_id: str | None
    """The task's id, a UUID. Default: a new UUIDv7. The same id never makes a second task."""
    queue: str | None
    """The queue, 1 to 128 bytes: letters, digits and ``._:/-``."""
    priority: int | None
    """Larger runs first; -1000 to 1000."""
    max_attempts: int | None
    """Attempts it gets in all, 1 to 1000."""
    timeout: timedelta | float | None
    """The hard limit on one attempt, 100 ms to 7 days."""
    lease_duration: timedelta | float | None
    """How long the server waits without a heartbeat, 1 s to 1 hour."""
    run_at: datetime | None
    """Not before this time (the server's clock). Not together with ``delay``."""
    delay: timedelta | float | None
    """Not before this long after the server stored it. Not together with ``run_at``."""
    expire_at: datetime | None
    """Dropped if no attempt started by then."""
    concurrency_key: str | None
    """Tasks that share it run one at a time; an empty string runs without the policy's key."""
    concurrency_limit: int | None
    """How many tasks of that key may run at once, 1 to 1000."""
    retry: RetryPolicy | None
    """Waiting times between attempts."""
    retention: Retention | None
    """How long the finished task is kept."""
    tags: Iterable[str]
    """Up to 16 words to find the task by."""
    metadata: Mapping[str, str] | None
    """Notes passed on to the worker: up to 64 entries, 16 KiB in all."""
    job_key: str | None
    """Your name for this job: never two live tasks have the same one; see ``JobKeyMode``. An empty
    string enqueues without the policy's key."""
    job_key_mode: JobKeyMode | None
    """What to do when a live task has the job key."""
    unique: Unique | None
    """Store the task only if no task like it exists. Not together with a job key."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of one item of a batch.

    Attributes:
        task_id: The task's id; for a refused item, the id it would have had.
        outcome: What the enqueue did; None if the item was refused.
        error: Why the item was refused; None if it was stored.
    """

    task_id: str
    outcome: EnqueueOutcome | None
    error: WorkerQueueError | None

    @property
    def ok(self) -> bool:
        """Whether the item is stored."""
        return self.error is None


class EnqueueItem:
    """One task of a batch, with its own options.

    Args:
        payload: The kind's message.
        **options: See ``EnqueueOptions``.

    Raises:
        TypeError, ValueError: An option cannot be sent; raised here, not by the batch call.
    """

    __slots__ = ("request",)

    def __init__(self, payload: Message, **options: Unpack[EnqueueOptions]) -> None:
        self.request = build_request(payload, options)

    @classmethod
    def dynamic(
        cls,
        kind: str,
        args: Mapping[str, JsonValue] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> EnqueueItem:
        """An item without generated code; arguments as for ``enqueue_dynamic``."""
        item = cls.__new__(cls)
        item.request = build_dynamic_request(kind, args, options)
        return item


def build_request(payload: Message, options: EnqueueOptions) -> worker_queue_pb2.EnqueueRequest:
    """The request for a payload message."""
    if isinstance(payload, Any):
        packed = payload
    elif isinstance(payload, Message):
        packed = Any(
            type_url=f"type.googleapis.com/{payload.DESCRIPTOR.full_name}",
            value=payload.SerializeToString(),
        )
    else:
        raise TypeError(f"the payload must be a protobuf message, not {type(payload).__name__}")
    return worker_queue_pb2.EnqueueRequest(
        task_id=options.get("task_id") or uuid7(), payload=packed, options=_task_options(options)
    )


def build_dynamic_request(
    kind: str, args: Mapping[str, JsonValue] | None, options: EnqueueOptions
) -> worker_queue_pb2.EnqueueRequest:
    """The request for a kind by name and its payload's fields in JSON form."""
    if not isinstance(kind, str) or not kind:
        raise ValueError("kind must be the name of a task kind, such as 'startRun'")
    struct = None
    if args is not None:
        try:
            struct = json_format.ParseDict(dict(args), Struct())
        except json_format.ParseError as error:
            raise ValueError(f"args cannot be written as JSON: {error}") from error
    return worker_queue_pb2.EnqueueRequest(
        task_id=options.get("task_id") or uuid7(),
        dynamic=worker_queue_pb2.DynamicPayload(kind=kind, args=struct),
        options=_task_options(options),
    )


def build_batch(
    items: Iterable[Message | EnqueueItem], all_or_nothing: bool
) -> worker_queue_pb2.EnqueueBatchRequest:
    """The request for a batch.

    Raises:
        ValueError: There are no items.
        TooLargeError: More than the server takes in one call.
    """
    no_options = EnqueueOptions()
    requests = [
        item.request if isinstance(item, EnqueueItem) else build_request(item, no_options)
        for item in items
    ]
    if not requests:
        raise ValueError("a batch needs at least one item")
    if len(requests) > MAX_BATCH_ITEMS:
        raise TooLargeError(f"a batch holds at most {MAX_BATCH_ITEMS} items, not {len(requests)}")
    batch = worker_queue_pb2.EnqueueBatchRequest(tasks=requests, all_or_nothing=all_or_nothing)
    # The batch holds copies: an item may go into another batch, under another span.
    _tracing.stamp(batch.tasks, _tracing.current())
    if (size := batch.ByteSize()) > MAX_MESSAGE_BYTES:
        raise TooLargeError(f"a batch holds at most {MAX_MESSAGE_BYTES} bytes, not {size}")
    return batch


def read_batch(
    request: worker_queue_pb2.EnqueueBatchRequest, response: worker_queue_pb2.EnqueueBatchResponse
) -> list[BatchResult]:
    """The results, in the order of the items."""
    return [
        BatchResult(asked.task_id, None, from_status(result.error))
        if result.HasField("error")
        else BatchResult(result.task_id, outcome_of(result.outcome), None)
        for asked, result in zip(request.tasks, response.results, strict=True)
    ]


def _task_options(options: EnqueueOptions) -> worker_queue_pb2.TaskOptions | None:
    """The options that were given, or None; the checks of most are the server's."""
    message: worker_queue_pb2.TaskOptions | None = None
    for name, value in options.items():
        if name not in _SETTERS:
            raise TypeError(f"unknown enqueue option: {name}")
        setter = _SETTERS[name]
        if value is None or setter is None:
            continue
        if message is None:
            message = worker_queue_pb2.TaskOptions()
        setter(message, name, value)
    if options.get("run_at") is not None and options.get("delay") is not None:
        raise ValueError("give run_at or delay, not both")
    return message


_Setter = Callable[[worker_queue_pb2.TaskOptions, str, AnyType], None]


def _set_value(message: worker_queue_pb2.TaskOptions, name: str, value: AnyType) -> None:
    setattr(message, name, value)


def _set_count(message: worker_queue_pb2.TaskOptions, name: str, value: int) -> None:
    # Zero is how the contract says "not set", so a caller's zero would be ignored in silence.
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
    setattr(message, name, value)


def _set_duration(
    message: worker_queue_pb2.TaskOptions, name: str, value: timedelta | float
) -> None:
    getattr(message, name).CopyFrom(to_duration(value, name))


def _set_time(message: worker_queue_pb2.TaskOptions, name: str, value: datetime) -> None:
    getattr(message, name).CopyFrom(to_timestamp(value, name))


def _set_message(
    message: worker_queue_pb2.TaskOptions, name: str, value: RetryPolicy | Retention | Unique
) -> None:
    getattr(message, name).CopyFrom(value.to_proto())


def _set_mode(message: worker_queue_pb2.TaskOptions, _name: str, value: JobKeyMode | str) -> None:
    message.job_key_mode = mode_to_proto(value)


def _set_tags(message: worker_queue_pb2.TaskOptions, name: str, value: Iterable[str]) -> None:
    if isinstance(value, str):
        raise TypeError(f"{name} must be several words, not one string")
    message.tags.extend(value)


def _set_metadata(
    message: worker_queue_pb2.TaskOptions, _name: str, value: Mapping[str, str]
) -> None:
    message.metadata.update(value)


_SETTERS: Final[Mapping[str, _Setter | None]] = {
    "task_id": None,  # part of the request itself
    "queue": _set_value,
    "priority": _set_value,
    "max_attempts": _set_count,
    "timeout": _set_duration,
    "lease_duration": _set_duration,
    "run_at": _set_time,
    "delay": _set_duration,
    "expire_at": _set_time,
    "concurrency_key": _set_value,
    "concurrency_limit": _set_count,
    "retry": _set_message,
    "retention": _set_message,
    "tags": _set_tags,
    "metadata": _set_metadata,
    "job_key": _set_value,
    "job_key_mode": _set_mode,
    "unique": _set_message,
}
