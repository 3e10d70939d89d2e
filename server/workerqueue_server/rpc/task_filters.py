"""From a TaskFilter message to the rules' filter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from workerqueue.v1 import task_admin_pb2, task_pb2
from workerqueue_server.queue import bounds
from workerqueue_server.queue.errors import InvalidTask
from workerqueue_server.queue.policy import Checker
from workerqueue_server.queue.task_admin import TaskFilter

_VALUES = 1_000
_TIMES: Final[
    tuple[Literal["created_after", "created_before", "finished_after", "finished_before"], ...]
] = ("created_after", "created_before", "finished_after", "finished_before")


def read_filter(request: task_admin_pb2.TaskFilter) -> TaskFilter:
    """The filter. Raises InvalidTask with every field that is wrong."""
    check = Checker("filter.")
    read = TaskFilter(
        states=tuple(_state(place, state, check) for place, state in enumerate(request.states)),
        kinds=_values("kinds", request.kinds, check),
        queues=_values("queues", request.queues, check),
        tags=_values("tags", request.tags, check),
        concurrency_key=_text("concurrency_key", request.concurrency_key, check),
        job_key=_text("job_key", request.job_key, check),
        worker_id=_text("worker_id", request.worker_id, check),
        error_type=_text("error_type", request.error_type, check),
        **{
            name: check.time(name, getattr(request, name))
            for name in _TIMES
            if request.HasField(name)
        },
    )
    if check.violations:
        raise InvalidTask(check.violations)
    return read


def _text(field: str, value: str, check: Checker) -> str:
    if len(value.encode()) > bounds.KEY_BYTES or "\x00" in value:
        check.fail(field, f"must be at most {bounds.KEY_BYTES} bytes without NUL")
    return value


def _values(field: str, values: Sequence[str], check: Checker) -> tuple[str, ...]:
    if len(values) > _VALUES:
        check.fail(field, f"at most {_VALUES} values")
    return tuple(_text(f"{field}[{place}]", value, check) for place, value in enumerate(values))


def _state(place: int, state: task_pb2.TaskState, check: Checker) -> str:
    try:
        name = task_pb2.TaskState.Name(state)
    except ValueError:
        name = "TASK_STATE_UNSPECIFIED"
    if name == "TASK_STATE_UNSPECIFIED":
        check.fail(f"states[{place}]", f"{state} is no state")
    return name.removeprefix("TASK_STATE_").lower()
