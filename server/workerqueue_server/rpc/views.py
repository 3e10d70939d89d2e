"""Tasks as the API shows them."""

from __future__ import annotations

import contextlib
import uuid
from typing import Any, cast

from google.protobuf.timestamp_pb2 import Timestamp

from workerqueue.v1 import policy_pb2, task_pb2, worker_queue_pb2
from workerqueue_server.queue.catalog import Catalog
from workerqueue_server.queue.enqueue import NewTask, Outcome
from workerqueue_server.queue.errors import Refused
from workerqueue_server.rpc.frames import milliseconds
from workerqueue_server.store.reads import Record

_OUTCOMES = {
    Outcome.CREATED: worker_queue_pb2.ENQUEUE_OUTCOME_CREATED,
    Outcome.EXISTED: worker_queue_pb2.ENQUEUE_OUTCOME_ALREADY_EXISTED,
    Outcome.REPLACED: worker_queue_pb2.ENQUEUE_OUTCOME_REPLACED,
    Outcome.KEPT: worker_queue_pb2.ENQUEUE_OUTCOME_KEPT,
}

_TIMES = (
    "created_at",
    "run_at",
    "expire_at",
    "started_at",
    "finished_at",
    "lease_expires_at",
    "attempt_deadline",
)
_TEXTS = ("worker_id", "concurrency_key", "job_key")


def timestamp(microseconds: int) -> Timestamp:
    """A Timestamp of microseconds since the Unix epoch."""
    return Timestamp(seconds=microseconds // 1_000_000, nanos=microseconds % 1_000_000 * 1000)


def enqueue_outcome(outcome: Outcome) -> worker_queue_pb2.EnqueueOutcome:
    """What an enqueue did, as the API says it."""
    return _OUTCOMES[outcome]


def stored_task(task: NewTask, stored_at: int, catalog: Catalog) -> task_pb2.Task:
    """A task that was just stored, without reading it back.

    Whether a task with a concurrency key had to wait for it is not known here: it is shown as
    available.
    """
    spec = task.spec
    run_at = max(stored_at, _due_time(spec.fields, stored_at))
    view = task_pb2.Task(
        task_id=str(uuid.UUID(bytes=task.task_id)),
        kind=spec.kind,
        queue=spec.queue,
        priority=spec.priority,
        state=(
            task_pb2.TASK_STATE_SCHEDULED if run_at > stored_at else task_pb2.TASK_STATE_AVAILABLE
        ),
        max_attempts=spec.max_attempts,
        timeout=milliseconds(spec.timeout_ms),
        lease_duration=milliseconds(spec.lease_duration_ms),
        created_at=timestamp(stored_at),
        run_at=timestamp(run_at),
        concurrency_key=task.concurrency_key or "",
        concurrency_limit=spec.concurrency_limit,
    )
    kind = catalog.kinds[spec.kind]
    view.payload.type_url = kind.type_url
    view.payload.value = task.payload
    if spec.fields:
        if "expire_at" in spec.fields:
            view.expire_at.CopyFrom(timestamp(_microseconds(spec.fields["expire_at"])))
        view.tags.extend(cast("list[str]", spec.fields.get("tags", ())))
        view.metadata.update(cast("dict[str, str]", spec.fields.get("metadata", {})))
        add_policies(view, spec.fields)
    return view


def _due_time(fields: dict[str, object], stored_at: int) -> int:
    if "run_at" in fields:
        return _microseconds(fields["run_at"])
    return stored_at + cast(int, fields.get("delay_ms", 0)) * 1000


def _microseconds(text: object) -> int:
    """A time as the database keeps it."""
    time = Timestamp()
    time.FromJsonString(str(text))
    return time.seconds * 1_000_000 + round(time.nanos / 1000)


def task_view(record: Record, catalog: Catalog) -> task_pb2.Task:
    """A task as read from the database."""
    view = task_pb2.Task(
        task_id=str(record["id"]),
        kind=record["kind"],
        queue=record["queue"],
        priority=record["priority"],
        state=f"TASK_STATE_{record['state'].upper()}",
        attempt=record["attempt"],
        max_attempts=record["max_attempts"],
        timeout=milliseconds(record["timeout_ms"]),
        lease_duration=milliseconds(record["lease_duration_ms"]),
        concurrency_limit=record["concurrency_limit"],
        tags=record["tags"] or (),
        metadata=record["metadata"] or {},
    )
    for name in _TIMES:
        if record[name] is not None:
            getattr(view, name).CopyFrom(timestamp(record[name]))
    for name in _TEXTS:
        setattr(view, name, record[name] or "")
    _add_payload(view, record, catalog)
    add_policies(view, record)
    if record["result"] is not None:
        view.result.ParseFromString(record["result"])
    if record["checkpoint"] is not None:
        view.checkpoint.ParseFromString(record["checkpoint"])
    if record["last_error"] is not None:
        view.last_error.CopyFrom(error_view(record["last_error"]))
    if record["progress"] is not None:
        view.progress.fraction = record["progress"]
        view.progress.message = record["progress_message"] or ""
    return view


def attempt_view(record: Record) -> task_pb2.Attempt:
    """A recorded attempt."""
    view = task_pb2.Attempt(
        attempt=record["attempt"],
        worker_id=record["worker_id"] or "",
        started_at=timestamp(record["started_at"]),
        finished_at=timestamp(record["finished_at"]),
        outcome=f"ATTEMPT_OUTCOME_{record['outcome'].upper()}",
    )
    if record["error"] is not None:
        view.error.CopyFrom(error_view(record["error"]))
    return view


def error_view(error: dict[str, Any]) -> task_pb2.TaskError:
    """A stored error."""
    return task_pb2.TaskError(
        type=error.get("type", ""), message=error.get("message", ""), trace=error.get("trace", "")
    )


def _add_payload(view: task_pb2.Task, record: Record, catalog: Catalog) -> None:
    kind = catalog.kinds.get(record["kind"])
    if kind is None:
        return
    view.payload.type_url = kind.type_url
    if record["payload"] is not None:
        view.payload.value = record["payload"]
    elif record["args"] is not None:
        # Enqueued by SQL. What cannot be converted is not shown: its lease says why.
        with contextlib.suppress(Refused):
            view.payload.value = catalog.payload_of(kind, record["args"])


def add_policies(view: task_pb2.Task | policy_pb2.TaskPolicy, record: dict[str, Any]) -> None:
    """Adds what a record says of retries and retention to a task or a policy."""
    if record.get("retry_policy") is not None:
        initial, multiplier, maximum, jitter = record["retry_policy"]
        view.retry.CopyFrom(
            policy_pb2.RetryPolicy(
                initial_backoff=milliseconds(int(initial)),
                multiplier=multiplier,
                max_backoff=milliseconds(int(maximum)),
                jitter=jitter,
            )
        )
    if record.get("retention") is not None:
        for name, seconds in zip(
            ("succeeded", "cancelled", "expired", "dead"), record["retention"], strict=True
        ):
            if seconds is not None:
                getattr(view.retention, name).CopyFrom(milliseconds(seconds * 1000))
