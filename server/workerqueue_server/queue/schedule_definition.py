"""A schedule's definition: read from its message, checked, and turned into the task of a tick."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import lru_cache

from google.protobuf.timestamp_pb2 import Timestamp

from workerqueue.v1 import schedule_pb2, worker_queue_pb2
from workerqueue_server.queue import bounds
from workerqueue_server.queue.cron import Cron, CronError, find_zone, read_expression
from workerqueue_server.queue.enqueue import NewTask
from workerqueue_server.queue.errors import InvalidTask, TooLarge, UnknownKind, Violation
from workerqueue_server.queue.policy import Checker
from workerqueue_server.queue.ticks import CatchUp, Rule

# Checks a request and makes the task of it. Raises InvalidTask, UnknownKind or TooLarge.
ReadTask = Callable[[worker_queue_pb2.EnqueueRequest], NewTask]

# Added to the metadata of every task that a schedule makes.
SCHEDULE_METADATA = "workerqueue.schedule"
TICK_METADATA = "workerqueue.tick"

_CATCH_UP_LIMIT = (1, 1000)
_LATE_AFTER_MS = (bounds.SECOND, 600 * bounds.SECOND)
_JITTER_MS = (0, bounds.DAY)
_EXPIRE_AFTER_MS = (bounds.SECOND, 366 * bounds.DAY)
_DESCRIPTION_BYTES = 1024
# A list's page of a thousand is read as a whole.
_SCHEDULE_BYTES = 64 * 1024

_OUTPUT_FIELDS = (
    *("source", "created_at", "updated_at", "next_run_at", "next_run_times", "last_run_at"),
    *("last_task_id", "last_problem", "tasks_made", "ticks_skipped"),
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Overlap(Enum):
    """What a tick does while an earlier task is live."""

    ALLOW = "allow"
    SKIP = "skip"
    REPLACE = "replace"


_CATCH_UPS = {
    schedule_pb2.CATCH_UP_POLICY_UNSPECIFIED: CatchUp.LATEST,
    schedule_pb2.CATCH_UP_POLICY_SKIP: CatchUp.SKIP,
    schedule_pb2.CATCH_UP_POLICY_LATEST: CatchUp.LATEST,
    schedule_pb2.CATCH_UP_POLICY_ALL: CatchUp.ALL,
}
_OVERLAPS = {
    schedule_pb2.OVERLAP_POLICY_UNSPECIFIED: Overlap.ALLOW,
    schedule_pb2.OVERLAP_POLICY_ALLOW: Overlap.ALLOW,
    schedule_pb2.OVERLAP_POLICY_SKIP: Overlap.SKIP,
    schedule_pb2.OVERLAP_POLICY_REPLACE: Overlap.REPLACE,
}


@dataclass(frozen=True, slots=True)
class Definition:
    """A schedule that can tick."""

    rule: Rule
    overlap: Overlap
    jitter: timedelta
    expire_after: timedelta | None
    message: schedule_pb2.Schedule

    def request_at(
        self, tick: datetime, *, uid: bytes | None, task_id: str = ""
    ) -> worker_queue_pb2.EnqueueRequest:
        """The request for the task of a tick.

        With the schedule's ``uid`` its id and jitter follow from schedule and tick alone, whoever
        makes it. Without (somebody triggers it) the id is ``task_id`` and there is no jitter.
        """
        request = worker_queue_pb2.EnqueueRequest()
        request.CopyFrom(self.message.task)
        request.task_id = task_id
        options = request.options
        options.metadata[SCHEDULE_METADATA] = self.message.schedule_id
        options.metadata[TICK_METADATA] = tick.strftime("%Y-%m-%dT%H:%M:%SZ")
        if uid is not None:
            request.task_id = str(uuid.UUID(bytes=tick_task_id(uid, tick)))
            wait = self.jitter * _fraction(uid, tick)
            if options.WhichOneof("when") == "delay":
                wait += options.delay.ToTimedelta()
            if wait:
                options.run_at.FromDatetime(tick + wait)
        if self.expire_after is not None:
            options.expire_at.FromDatetime(tick + self.expire_after)
        return request


def tick_task_id(uid: bytes, tick: datetime) -> bytes:
    """The id of a tick's task: a UUID of version 8 that follows from schedule and tick alone.

    It begins with the tick's time in milliseconds like a version 7, which keeps the index compact.
    """
    milliseconds = (tick - _EPOCH) // timedelta(milliseconds=1)
    bits = int.from_bytes(_digest(uid, tick)[:10], "big") & ~(0xF << 76 | 3 << 62)
    return (milliseconds << 80 | 8 << 76 | 2 << 62 | bits).to_bytes(16, "big")


def _fraction(uid: bytes, tick: datetime) -> float:
    """A number from 0 to 1 that differs from tick to tick and from schedule to schedule."""
    return int.from_bytes(_digest(uid, tick)[-4:], "big") / 0xFFFFFFFF


def _digest(uid: bytes, tick: datetime) -> bytes:
    return hashlib.sha256(uid + tick.astimezone(UTC).isoformat().encode()).digest()


def read_definition(
    message: schedule_pb2.Schedule, read_task: ReadTask, prefix: str = "schedule."
) -> tuple[Definition, NewTask]:
    """The definition in a request, and the task that it would make; output fields are ignored.

    Raises InvalidTask, UnknownKind or TooLarge, whose fields begin with ``prefix``.
    """
    check = Checker(prefix)
    if message.ByteSize() > _SCHEDULE_BYTES:
        raise TooLarge(prefix.rstrip("."), f"a schedule has at most {_SCHEDULE_BYTES} bytes in all")
    check.queue("schedule_id", message.schedule_id)
    if len(message.description.encode()) > _DESCRIPTION_BYTES or "\x00" in message.description:
        check.fail("description", f"must have at most {_DESCRIPTION_BYTES} bytes, without NUL")
    _check_policies(message, check)
    _check_task(message.task, check)
    _check_times(message, check)
    if check.violations:
        raise InvalidTask(check.violations)
    definition = _definition(message)
    try:
        # As at a tick, so that nothing can be wrong with it then unless the contract changes.
        task = read_task(definition.request_at(_EPOCH, uid=bytes(16)))
    except (InvalidTask, UnknownKind, TooLarge) as error:
        error.violations = [
            Violation(f"{prefix}task.{field}", text) for field, text in error.violations
        ]
        raise
    return definition, task


def stored_definition(message: schedule_pb2.Schedule) -> bytes:
    """What is stored of a message: all but what the table keeps in columns."""
    kept = schedule_pb2.Schedule()
    kept.CopyFrom(message)
    for name in (*_OUTPUT_FIELDS, "paused"):
        kept.ClearField(name)
    return kept.SerializeToString(deterministic=True)


@lru_cache(maxsize=4096)
def load_definition(stored: bytes) -> Definition:
    """A stored definition. Raises CronError if this machine does not know its time zone."""
    return _definition(schedule_pb2.Schedule.FromString(stored))


def ticks_alike(one: schedule_pb2.Schedule, other: schedule_pb2.Schedule) -> bool:
    """Whether two definitions have the same ticks."""
    return _times_of(one) == _times_of(other)


def _times_of(message: schedule_pb2.Schedule) -> tuple[object, ...]:
    return (
        message.cron,
        message.time_zone or "UTC",
        message.start_at if message.HasField("start_at") else None,
        message.end_at if message.HasField("end_at") else None,
    )


def _definition(message: schedule_pb2.Schedule) -> Definition:
    return Definition(
        rule=Rule(
            cron=Cron(message.cron, message.time_zone or "UTC"),
            catch_up=_CATCH_UPS.get(message.catch_up, CatchUp.LATEST),
            catch_up_limit=message.catch_up_limit or 100,
            late_after=(
                message.late_after.ToTimedelta()
                if message.HasField("late_after")
                else timedelta(minutes=1)
            ),
            start=(
                message.start_at.ToDatetime(tzinfo=UTC) if message.HasField("start_at") else None
            ),
            end=message.end_at.ToDatetime(tzinfo=UTC) if message.HasField("end_at") else None,
        ),
        overlap=_OVERLAPS.get(message.overlap, Overlap.ALLOW),
        jitter=message.jitter.ToTimedelta(),
        expire_after=(
            message.expire_after.ToTimedelta() if message.HasField("expire_after") else None
        ),
        message=message,
    )


def _check_times(message: schedule_pb2.Schedule, check: Checker) -> None:
    for read, text in ((read_expression, message.cron), (find_zone, message.time_zone or "UTC")):
        try:
            read(text)
        except CronError as error:
            check.fail(error.field, str(error))
    start = _time("start_at", message.start_at, check) if message.HasField("start_at") else None
    end = _time("end_at", message.end_at, check) if message.HasField("end_at") else None
    if start is not None and end is not None and end <= start:
        check.fail("end_at", "must be later than start_at")


def _check_policies(message: schedule_pb2.Schedule, check: Checker) -> None:
    if message.catch_up not in _CATCH_UPS:
        check.fail("catch_up", f"unknown policy {message.catch_up}")
    if message.overlap not in _OVERLAPS:
        check.fail("overlap", f"unknown policy {message.overlap}")
    if message.catch_up_limit:
        check.number("catch_up_limit", message.catch_up_limit, _CATCH_UP_LIMIT)
    if message.HasField("late_after"):
        check.milliseconds("late_after", message.late_after, _LATE_AFTER_MS)
    if message.HasField("jitter"):
        check.milliseconds("jitter", message.jitter, _JITTER_MS)
    if message.HasField("expire_after"):
        check.milliseconds("expire_after", message.expire_after, _EXPIRE_AFTER_MS)


def _check_task(task: worker_queue_pb2.EnqueueRequest, check: Checker) -> None:
    options = task.options
    if task.task_id:
        check.fail("task.task_id", "must be empty: each tick's task gets its own")
    if options.WhichOneof("when") == "run_at":
        check.fail("task.options.run_at", "must be unset: the tick is the time; or set delay")
    if options.HasField("delay"):
        check.milliseconds("task.options.delay", options.delay, bounds.DELAY_MS)
    if options.HasField("expire_at"):
        check.fail("task.options.expire_at", "must be unset: set the schedule's expire_after")
    for name in (SCHEDULE_METADATA, TICK_METADATA):
        if name in options.metadata:
            check.fail("task.options.metadata", f"{name} is set by the schedule")


def _time(field: str, value: Timestamp, check: Checker) -> datetime | None:
    if not check.time(field, value):
        return None
    if value.seconds < 0:
        check.fail(field, "must not be before 1970")
    return value.ToDatetime(tzinfo=UTC)
