"""From the ``unique`` option to a key: equal keys mean the same task."""

from __future__ import annotations

from google.protobuf.message import Message

from workerqueue.v1 import task_pb2, worker_queue_pb2
from workerqueue_server.queue import bounds, canonical
from workerqueue_server.queue.canonical import NotComparable
from workerqueue_server.queue.catalog import Kind
from workerqueue_server.queue.errors import InvalidTask, Violation
from workerqueue_server.queue.field_path import PathError
from workerqueue_server.queue.policy import Checker

_FIELD = "options.unique"
_LIVE = {
    task_pb2.TASK_STATE_SCHEDULED,
    task_pb2.TASK_STATE_AVAILABLE,
    task_pb2.TASK_STATE_BLOCKED,
    task_pb2.TASK_STATE_LEASED,
    task_pb2.TASK_STATE_RETRYING,
}
# The database's names of the finished states.
_FINISHED = {
    task_pb2.TASK_STATE_SUCCEEDED: "succeeded",
    task_pb2.TASK_STATE_DEAD: "dead",
    task_pb2.TASK_STATE_CANCELLED: "cancelled",
    task_pb2.TASK_STATE_EXPIRED: "expired",
}
_DEFAULT_FINISHED = ("succeeded",)


def is_wanted(unique: worker_queue_pb2.Unique) -> bool:
    """Whether the option asks for uniqueness at all."""
    return bool(
        unique.by_args
        or unique.by_fields
        or unique.by_queue
        or unique.HasField("by_period")
        or unique.by_states
    )


def unique_fields(unique: worker_queue_pb2.Unique, check: Checker) -> dict[str, object]:
    """The option's part of a spec; violations go to ``check``."""
    if not is_wanted(unique):
        if unique.on_conflict:
            check.fail("unique", "does not say what must be unique")
        return {}
    fields: dict[str, object] = {"unique_states": _finished_states(unique, check)}
    if unique.by_args and unique.by_fields:
        check.fail("unique", "give by_args or by_fields, not both")
    if unique.HasField("by_period"):
        fields["unique_period_ms"] = check.milliseconds(
            "unique.by_period", unique.by_period, bounds.UNIQUE_PERIOD_MS
        )
    if unique.on_conflict == worker_queue_pb2.UNIQUE_CONFLICT_FAIL:
        fields["unique_fail"] = True
    elif unique.on_conflict not in (
        worker_queue_pb2.UNIQUE_CONFLICT_UNSPECIFIED,
        worker_queue_pb2.UNIQUE_CONFLICT_KEEP_EXISTING,
    ):
        check.fail("unique.on_conflict", f"unknown value {unique.on_conflict}")
    return fields


def unique_key(
    kind: Kind,
    queue: str,
    payload: Message,
    unique: worker_queue_pb2.Unique,
    period_ms: object,
) -> bytes:
    """The key but for the period's number, which the database adds. Raises InvalidTask.

    The SQL function enqueue builds the same text.
    """
    parts = ["u1", canonical.text(kind.name)]
    try:
        if unique.by_queue:
            parts.append("q" + canonical.text(queue))
        if unique.by_args:
            parts.append("a" + canonical.message(payload))
        if unique.by_fields:
            parts.append("f" + canonical.selected(payload, unique.by_fields))
    except (PathError, NotComparable) as error:
        field = "by_fields" if unique.by_fields else "by_args"
        raise InvalidTask([Violation(f"{_FIELD}.{field}", str(error))]) from error
    if period_ms is not None:
        parts.append(f"p{period_ms};")
    return canonical.hash_of("".join(parts))


def _finished_states(unique: worker_queue_pb2.Unique, check: Checker) -> list[str]:
    if not unique.by_states:
        return list(_DEFAULT_FINISHED)
    given = set(unique.by_states)
    if missing := _LIVE - given:
        names = ", ".join(task_pb2.TaskState.Name(state) for state in sorted(missing))
        check.fail("unique.by_states", f"must name all live states; these are missing: {names}")
    if strange := given - _LIVE - _FINISHED.keys():
        check.fail("unique.by_states", f"unknown state {min(strange)}")
    return [_FINISHED[state] for state in sorted(given & _FINISHED.keys())]
