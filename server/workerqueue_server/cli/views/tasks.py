"""Tasks for people."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.text import Text

from workerqueue.v1 import task_pb2
from workerqueue_server.cli.output import Column, console, print_facts, print_table
from workerqueue_server.cli.views import times

if TYPE_CHECKING:
    from workerqueue.v1.task_pb2 import Attempt, Task, TaskError
    from workerqueue_server.cli.views.messages import Views

_COLORS = {
    "available": "cyan",
    "leased": "blue",
    "blocked": "yellow",
    "retrying": "yellow",
    "succeeded": "green",
    "dead": "red",
    "expired": "red",
    "cancelled": "magenta",
}

_COLUMNS = (
    Column("task", whole=True),
    Column("kind"),
    Column("queue"),
    Column("state"),
    Column("attempt", right=True),
    Column("created"),
    Column("when"),
    Column("note"),
)


def state_name(state: int) -> str:
    """`leased` for TASK_STATE_LEASED."""
    return task_pb2.TaskState.Name(state).removeprefix("TASK_STATE_").lower()


def colored_state(name: str) -> Text:
    """A state's name in its color."""
    return Text(name, style=_COLORS.get(name, ""))


def print_tasks(tasks: Iterable[Task]) -> None:
    """One line per task."""
    now = times.clock()
    print_table(_COLUMNS, [_row(task, now) for task in tasks])


def print_task(task: Task, views: Views) -> None:
    """Everything about a task."""
    now = times.clock()
    print_facts(_facts(task, now))
    for title in ("payload", "result", "checkpoint"):
        if task.HasField(title):
            packed = getattr(task, title)
            _print_part(f"{title} ({packed.type_url.rpartition('/')[2]})")
            console().print(Text(dumped(views.fields(packed))))
    if task.attempts:
        _print_part("attempts")
        print_table(
            [Column("#", right=True), *map(Column, ("worker", "started", "took", "end", "error"))],
            [_attempt_row(attempt, now) for attempt in task.attempts],
        )
    if task.last_error.trace:
        _print_part("trace of the last error")
        console().print(Text(task.last_error.trace.rstrip()))


def change_line(task: Task) -> str:
    """A task's state after a change, in one line without its id."""
    now = times.clock()
    parts = [state_name(task.state), f"attempt {task.attempt} of {task.max_attempts}"]
    if note := _note(task):
        parts.append(note)
    if task.state in (task_pb2.TASK_STATE_SCHEDULED, task_pb2.TASK_STATE_RETRYING):
        parts.append(f"runs {times.relative(task.run_at, now)}")
    return ", ".join(parts)


def dumped(value: Any) -> str:
    """JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def _print_part(title: str) -> None:
    console().print()
    console().print(Text(title, style="bold"))


def _facts(task: Task, now: datetime) -> Iterable[tuple[str, Any]]:
    yield "task", task.task_id
    yield "kind", task.kind
    yield "queue", task.queue
    yield "state", colored_state(state_name(task.state))
    yield "attempt", f"{task.attempt} of {task.max_attempts}"
    yield "priority", str(task.priority)
    yield "created", times.moment_with_age(task.created_at, now)
    yield "run at", times.moment_with_age(task.run_at, now)
    yield "expires", times.moment_with_age(task.expire_at, now)
    yield "started", times.moment_with_age(task.started_at, now)
    yield "finished", times.moment_with_age(task.finished_at, now)
    yield "worker", task.worker_id
    yield "lease until", times.moment_with_age(task.lease_expires_at, now)
    yield "attempt until", times.moment_with_age(task.attempt_deadline, now)
    yield "timeout", times.duration(task.timeout)
    yield "lease duration", times.duration(task.lease_duration)
    if task.concurrency_key:
        yield "concurrency key", f"{task.concurrency_key} ({task.concurrency_limit} at a time)"
    yield "job key", task.job_key
    yield "tags", ", ".join(task.tags)
    yield "metadata", "\n".join(f"{key}={task.metadata[key]}" for key in sorted(task.metadata))
    if task.HasField("progress"):
        yield "progress", _progress(task)
    yield "last error", error_line(task.last_error)


def error_line(error: TaskError) -> str:
    """An error's type and the first line of its message."""
    first = error.message.strip().partition("\n")[0]
    return ": ".join(part for part in (error.type, first) if part)


def _row(task: Task, now: datetime) -> tuple[Any, ...]:
    return (
        task.task_id,
        task.kind,
        task.queue,
        colored_state(state_name(task.state)),
        f"{task.attempt}/{task.max_attempts}",
        times.relative(task.created_at, now),
        _when(task, now),
        _note(task),
    )


def _when(task: Task, now: datetime) -> str:
    if task.HasField("finished_at"):
        return times.relative(task.finished_at, now)
    if task.state == task_pb2.TASK_STATE_LEASED:
        return f"began {times.relative(task.started_at, now)}"
    return times.relative(task.run_at, now)


def _note(task: Task) -> str:
    if task.state == task_pb2.TASK_STATE_SUCCEEDED:
        return ""
    if task.state == task_pb2.TASK_STATE_LEASED:
        return " ".join(part for part in (f"on {task.worker_id}", _progress(task)) if part)
    if task.state == task_pb2.TASK_STATE_BLOCKED:
        return f"key {task.concurrency_key or task.job_key}"
    return error_line(task.last_error)


def _progress(task: Task) -> str:
    if not task.HasField("progress"):
        return ""
    return f"{task.progress.fraction:.0%} {task.progress.message}".strip()


def _attempt_row(attempt: Attempt, now: datetime) -> tuple[Any, ...]:
    outcome = task_pb2.AttemptOutcome.Name(attempt.outcome).removeprefix("ATTEMPT_OUTCOME_").lower()
    if attempt.HasField("finished_at"):
        took = attempt.finished_at.ToNanoseconds() - attempt.started_at.ToNanoseconds()
        spent = times.span(max(took, 0) / 1e9)
    else:
        outcome, spent = "running", ""
    return (
        str(attempt.attempt),
        attempt.worker_id,
        times.relative(attempt.started_at, now),
        spent,
        outcome,
        error_line(attempt.error),
    )
