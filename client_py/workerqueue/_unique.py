"""Options that look at other tasks: what to do with a job key, and what makes a task unique."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from workerqueue._convert import to_duration
from workerqueue.v1 import policy_pb2, task_pb2, worker_queue_pb2


class JobKeyMode(StrEnum):
    """What an enqueue does when a live task has the job key."""

    REPLACE = "replace"
    """Debounce: the waiting task takes everything from the new one and keeps its id. Behind a task
    that runs, a new one waits."""
    PRESERVE_RUN_AT = "preserve_run_at"
    """Throttle: like REPLACE, but a task that was never tried keeps its time."""
    UNSAFE_DEDUPE = "unsafe_dedupe"
    """The task stays as it is, even if it runs already, and the new one is dropped."""


_MODES: Final = {
    JobKeyMode.REPLACE: policy_pb2.JOB_KEY_MODE_REPLACE,
    JobKeyMode.PRESERVE_RUN_AT: policy_pb2.JOB_KEY_MODE_PRESERVE_RUN_AT,
    JobKeyMode.UNSAFE_DEDUPE: policy_pb2.JOB_KEY_MODE_UNSAFE_DEDUPE,
}

_LIVE: Final = (
    task_pb2.TASK_STATE_SCHEDULED,
    task_pb2.TASK_STATE_AVAILABLE,
    task_pb2.TASK_STATE_BLOCKED,
    task_pb2.TASK_STATE_LEASED,
    task_pb2.TASK_STATE_RETRYING,
)
_FINISHED: Final = {
    "succeeded": task_pb2.TASK_STATE_SUCCEEDED,
    "dead": task_pb2.TASK_STATE_DEAD,
    "cancelled": task_pb2.TASK_STATE_CANCELLED,
    "expired": task_pb2.TASK_STATE_EXPIRED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unique:
    """Stores a task only if no task like it exists. The kind always counts.

    Attributes:
        by_args: Whether the whole payload counts. Default: False.
        by_fields: These payload fields count instead, by proto or JSON name, with dots into message
            fields.
        by_queue: Whether the queue counts. Default: False.
        by_period: The period counts in which the task may first run, as a timedelta or in seconds,
            1 s to 366 days: time is cut into periods of this length from 1970-01-01 UTC on.
        finished: The finished states in which a task still counts, until its retention is over:
            any of succeeded, dead, cancelled, expired. Live tasks always count. Default: succeeded.
        fail: Whether a task that is not unique raises ``KeyConflictError``. Default: False, the
            answer is the existing task with the outcome KEPT.
    """

    by_args: bool = False
    by_fields: Sequence[str] = ()
    by_queue: bool = False
    by_period: timedelta | float | None = None
    finished: Sequence[str] | None = None
    fail: bool = False

    def to_proto(self) -> worker_queue_pb2.Unique:
        """The contract's message.

        Raises:
            ValueError: ``finished`` names something else than a finished state.
            TypeError: ``by_fields`` or ``finished`` is one string.
        """
        for name in ("by_fields", "finished"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be several names, not one string")
        message = worker_queue_pb2.Unique(
            by_args=self.by_args, by_fields=self.by_fields, by_queue=self.by_queue
        )
        if self.by_period is not None:
            message.by_period.CopyFrom(to_duration(self.by_period, "by_period"))
        if self.finished is not None:
            if unknown := set(self.finished) - _FINISHED.keys():
                raise ValueError(
                    f"finished must be any of {', '.join(_FINISHED)}, not {min(unknown)!r}"
                )
            message.by_states.extend(_LIVE)
            message.by_states.extend(_FINISHED[name] for name in dict.fromkeys(self.finished))
        if self.fail:
            message.on_conflict = worker_queue_pb2.UNIQUE_CONFLICT_FAIL
        return message


def mode_to_proto(mode: JobKeyMode | str) -> policy_pb2.JobKeyMode:
    """The contract's value.

    Raises:
        ValueError: There is no such mode.
    """
    return _MODES[JobKeyMode(mode)]
