"""What became of the tasks: the table, and whether it is what must be."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import StringValue
from rich import box
from rich.table import Table
from rich.text import Text

from quickstart.story import Scene
from workerqueue.v1.task_pb2 import AttemptOutcome, Task, TaskState

_STYLES = {"succeeded": "green", "dead": "red"}


def state_name(state: TaskState) -> str:
    """Such as `succeeded`."""
    return TaskState.Name(state).removeprefix("TASK_STATE_").lower()


def as_table(scenes: list[Scene], tasks: list[Task]) -> Table:
    """One line a task. Wait: until the first attempt began. Run: the sum of its attempts."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in ("kind", "queue"):
        table.add_column(column, no_wrap=True)
    for column in ("attempts", "outcome", "wait", "run"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("what happened")
    for scene, task in zip(scenes, tasks, strict=True):
        outcome = state_name(task.state)
        table.add_row(
            task.kind,
            task.queue,
            f"{task.attempt} of {task.max_attempts}",
            Text(outcome, _STYLES.get(outcome, "yellow")),
            _milliseconds(_wait(task)),
            _milliseconds(_run(task)),
            _said(scene, task),
        )
    return table


def problems(scenes: list[Scene], tasks: list[Task]) -> list[str]:
    """How the tasks' ends differ from what must be; empty: not at all."""
    found = []
    for scene, task in zip(scenes, tasks, strict=True):
        end, wanted = state_name(task.state), state_name(scene.state)
        if (task.state, task.attempt) != (scene.state, scene.attempts):
            found.append(
                f"{task.kind} {task.task_id} {f'({scene.mishap}) ' if scene.mishap else ''}"
                f"is {end} after {task.attempt} attempts, not {wanted} after {scene.attempts}"
                + (f": {task.last_error.message}" if task.last_error.message else "")
            )
    return found


def _wait(task: Task) -> float:
    return _seconds(task.attempts[0].started_at) - _seconds(task.created_at)


def _run(task: Task) -> float:
    return sum(_seconds(a.finished_at) - _seconds(a.started_at) for a in task.attempts)


def _seconds(time: Timestamp) -> float:
    return time.seconds + time.nanos / 1e9


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"


def _said(scene: Scene, task: Task) -> str:
    result = StringValue()
    said = result.value if task.result.Unpack(result) else task.last_error.message
    if not scene.mishap:
        return said
    ends = [
        AttemptOutcome.Name(a.outcome).removeprefix("ATTEMPT_OUTCOME_").lower().replace("_", " ")
        for a in task.attempts
    ]
    return f"{', '.join(ends)}: {said}"
