"""Waiting for a task over WatchTask, across restarts of the server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

import grpc

from workerqueue.v1 import task_admin_pb2, task_pb2
from workerqueue_server.cli.connection import Remote
from workerqueue_server.cli.exits import Exit
from workerqueue_server.cli.failures import Failure

if TYPE_CHECKING:
    from workerqueue.v1.task_pb2 import Task

TERMINAL = frozenset(
    {
        task_pb2.TASK_STATE_SUCCEEDED,
        task_pb2.TASK_STATE_DEAD,
        task_pb2.TASK_STATE_CANCELLED,
        task_pb2.TASK_STATE_EXPIRED,
    }
)

# A restart of the server, or of a load balancer's other half, is over by then.
_PATIENCE_SECONDS = 30.0
_PAUSE_SECONDS = 0.5


def changes(remote: Remote, task_id: str, limit: timedelta | None) -> Iterator[Task]:
    """The task as it changes, until it is in a terminal state.

    Raises Failure (STILL_WAITING) when the limit passes before, and grpc.RpcError.
    """
    end = None if limit is None else time.monotonic() + limit.total_seconds()
    heard = time.monotonic()
    known = b""
    while True:
        left = None if end is None else max(end - time.monotonic(), 0.001)
        request = task_admin_pb2.WatchTaskRequest(task_id=task_id)
        try:
            for answer in remote.stream(remote.admin.WatchTask, request, left):
                heard = time.monotonic()
                state = answer.task.SerializeToString(deterministic=True)
                # A new stream begins with what the old one may have told already.
                if state != known:
                    known = state
                    yield answer.task
                if answer.task.state in TERMINAL:
                    return
        except grpc.RpcError as error:
            if end is not None and time.monotonic() >= end:
                raise _still_waiting(task_id) from error
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            if time.monotonic() - heard > _PATIENCE_SECONDS:
                raise
            time.sleep(_PAUSE_SECONDS)


def outcome_failure(task: Task) -> Failure | None:
    """What to end with after waiting for a task; None if it succeeded."""
    if task.state == task_pb2.TASK_STATE_SUCCEEDED:
        return None
    state = task_pb2.TaskState.Name(task.state).removeprefix("TASK_STATE_").lower()
    error = task.last_error
    told = ": ".join(part for part in (error.type, error.message) if part)
    return Failure(
        f"task {task.task_id} is {state}" + (f": {told}" if told else ""),
        Exit.TASK_FAILED,
        hint=f"`workerqueue tasks show {task.task_id}` shows its attempts",
    )


def _still_waiting(task_id: str) -> Failure:
    return Failure(
        f"task {task_id} has not ended in time; it goes on",
        Exit.STILL_WAITING,
        hint=f"`workerqueue tasks watch {task_id}` waits on, `workerqueue tasks why {task_id}` "
        "says what it waits for",
    )
