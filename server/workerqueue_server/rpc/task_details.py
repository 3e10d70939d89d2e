"""A task with its attempts, cut to what one message can carry."""

from __future__ import annotations

from collections.abc import Callable

from workerqueue.v1 import task_pb2
from workerqueue_server.queue import bounds
from workerqueue_server.queue.catalog import Catalog
from workerqueue_server.rpc.views import attempt_view, task_view, timestamp
from workerqueue_server.store.reads import Record, TaskSnapshot

# Room for what surrounds the task in its message.
_TASK_BYTES = bounds.MESSAGE_BYTES - 64 * 1024


def task_details(snapshot: TaskSnapshot, catalog: Catalog) -> tuple[task_pb2.Task, list[str]]:
    """The task with all its attempts, and the fields left out to make it fit a message."""
    view = task_view(snapshot.task, catalog)
    view.attempts.extend(map(attempt_view, snapshot.attempts))
    own = _own_attempt(snapshot.task)
    # Not by number alone: a task that a job key replaced counts its attempts from 1 again.
    if own is not None and all(
        (known.attempt, known.started_at) != (own.attempt, own.started_at)
        for known in view.attempts
    ):
        view.attempts.append(own)
    omitted: list[str] = []
    for field, omit in _OMISSIONS:
        if view.ByteSize() <= _TASK_BYTES:
            break
        omit(view)
        omitted.append(field)
    return view, omitted


def _own_attempt(record: Record) -> task_pb2.Attempt | None:
    """The attempt that the task's own row tells of: the running one, or the one that succeeded."""
    if record["state"] not in ("leased", "succeeded"):
        return None
    attempt = task_pb2.Attempt(attempt=record["attempt"], worker_id=record["worker_id"] or "")
    if record["started_at"] is not None:
        attempt.started_at.CopyFrom(timestamp(record["started_at"]))
    if record["state"] == "succeeded":
        attempt.finished_at.CopyFrom(timestamp(record["finished_at"]))
        attempt.outcome = task_pb2.ATTEMPT_OUTCOME_SUCCEEDED
    return attempt


def _omit_traces(view: task_pb2.Task) -> None:
    for attempt in view.attempts:
        attempt.error.trace = ""


def _omit_checkpoint(view: task_pb2.Task) -> None:
    view.ClearField("checkpoint")


def _omit_attempts(view: task_pb2.Task) -> None:
    view.ClearField("attempts")


_OMISSIONS: tuple[tuple[str, Callable[[task_pb2.Task], None]], ...] = (
    ("attempts.error.trace", _omit_traces),
    ("checkpoint", _omit_checkpoint),
    ("attempts", _omit_attempts),
)
