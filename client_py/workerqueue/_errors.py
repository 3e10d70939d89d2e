"""Every exception of this package, in one place.

Answers of the server (the class follows the gRPC status and the ``ErrorInfo`` reason):

* ``WorkerQueueError``
    * ``InvalidRequestError`` (INVALID_ARGUMENT)
        * ``InvalidPayloadError``
        * ``UnknownKindError``
        * ``TooLargeError``
    * ``TaskNotFoundError`` (NOT_FOUND)
    * ``KeyConflictError`` (ALREADY_EXISTS)
    * ``PreconditionError`` (FAILED_PRECONDITION)
        * ``LeaseLostError``
        * ``WrongStateError``
        * ``ProtocolError``
    * ``BatchRefusedError`` (ABORTED)
    * ``OverloadedError`` (RESOURCE_EXHAUSTED)
    * ``UnavailableError`` (UNAVAILABLE)
    * ``DeadlineError`` (DEADLINE_EXCEEDED)
    * ``AuthenticationError`` (UNAUTHENTICATED)
    * ``PermissionDeniedError`` (PERMISSION_DENIED)
    * ``ServerError`` (INTERNAL and whatever has no class of its own)

What a producer meets that waits for a result:

* ``TaskFailedError``

What a handler raises to say how its attempt ends:

* ``HandlerSignal``
    * ``Discard``
    * ``RetryLater``
    * ``Snooze``

What a handler meets when its work is no longer wanted:

* ``TaskCancelled``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

import grpc

from workerqueue._convert import to_seconds
from workerqueue.v1 import task_pb2

MAX_DELAY_SECONDS: Final = 30 * 86400.0


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that the server refused.

    Attributes:
        field: Path of the field, such as ``payload.id``; empty when the whole message is meant.
        description: What is wrong with it, for people.
    """

    field: str
    description: str


class WorkerQueueError(Exception):
    """Base of every error the server answers with.

    Attributes:
        code: The gRPC status code.
        reason: The name from ``workerqueue.v1.ErrorReason`` without its prefix, such as
            ``LEASE_LOST``; empty when the error was not made by the server (a broken connection).
        message: What happened, for people.
        violations: The refused fields, for ``InvalidRequestError`` and its children.
        retry_after: When to try again, in seconds, if the server said so.
        metadata: Further facts, such as ``error_id`` of a server fault.
    """

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        violations: Sequence[FieldViolation] = (),
        retry_after: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.violations = tuple(violations)
        self.retry_after = retry_after
        self.metadata = dict(metadata or {})

    def __str__(self) -> str:
        text = self.message
        for violation in self.violations:
            # The server's message often is its first violation.
            if violation.description not in text:
                field = f"{violation.field}: " if violation.field else ""
                text = f"{text}; {field}{violation.description}" if text else violation.description
        return text


class InvalidRequestError(WorkerQueueError):
    """A field is missing, out of range or contradicts another one; see ``violations``."""


class InvalidPayloadError(InvalidRequestError):
    """The payload breaks its message's rules; see ``violations``."""


class UnknownKindError(InvalidRequestError):
    """The server knows no kind of that name or message type; the message names the nearest ones."""


class TooLargeError(InvalidRequestError):
    """A payload, batch or frame is over its size limit."""


class TaskNotFoundError(WorkerQueueError):
    """There is no such task, or it is no longer kept."""


class KeyConflictError(WorkerQueueError):
    """A live task holds the key."""

    @property
    def task_id(self) -> str:
        """The id of the task that holds the key."""
        return self.metadata.get("task_id", "")


class PreconditionError(WorkerQueueError):
    """The state of things does not allow this; nothing was changed."""


class LeaseLostError(PreconditionError):
    """The lease is not (or no longer) the task's live lease; stop the work."""


class WrongStateError(PreconditionError):
    """The task's state does not allow this."""


class ProtocolError(PreconditionError):
    """The worker and the server do not agree on the protocol; see the server's version."""


class BatchRefusedError(WorkerQueueError):
    """Another item of an all-or-nothing batch was refused, so this one was not enqueued."""


class OverloadedError(WorkerQueueError):
    """The server takes no more for now; try again after ``retry_after``."""


class UnavailableError(WorkerQueueError):
    """The server, or its database, cannot be reached; the call was repeated before."""


class DeadlineError(WorkerQueueError):
    """No answer in time. Whether the call took effect is not known; repeat it with the same id."""


class AuthenticationError(WorkerQueueError):
    """The server does not accept the token or certificate."""


class PermissionDeniedError(WorkerQueueError):
    """The caller is known but may not do this."""


class TaskFailedError(Exception):
    """A task whose result is waited for ended without one: dead, cancelled or expired.

    Attributes:
        task: The ended task.
        state: ``dead``, ``cancelled`` or ``expired``.
        error_type: The class of the last attempt's error; empty if there was none.
        message: What happened, for people; empty if there was no error.
        trace: The stack trace, as the worker told it.
    """

    def __init__(self, task: task_pb2.Task) -> None:
        self.task = task
        self.state = task_pb2.TaskState.Name(task.state).removeprefix("TASK_STATE_").lower()
        self.error_type = task.last_error.type
        self.message = task.last_error.message
        self.trace = task.last_error.trace
        cause = ": ".join(part for part in (self.error_type, self.message) if part)
        reason = f": {cause}" if cause else ""
        super().__init__(f"task {task.task_id} ({task.kind}) is {self.state}{reason}")


class ServerError(WorkerQueueError):
    """A fault of the server, or a call that it is too old to know."""

    @property
    def error_id(self) -> str:
        """Finds the fault in the server's log."""
        return self.metadata.get("error_id", "")


class HandlerSignal(Exception):
    """Base of what a handler raises to end its attempt in a chosen way."""


class Discard(HandlerSignal):
    """The task can never succeed: it is dead at once, whatever attempts it has left.

    Args:
        reason: Kept as the error's message, for people.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class RetryLater(HandlerSignal):
    """The attempt failed; try again after ``delay`` instead of the backoff.

    The attempt is charged: a task out of attempts is dead.

    Args:
        delay: The wait, as a timedelta or in seconds; 0 to 30 days.
        reason: Kept as the error's message, for people.

    Raises:
        ValueError: The delay is out of range.
    """

    def __init__(self, delay: timedelta | float, reason: str = "") -> None:
        super().__init__(reason)
        self.delay = _checked_delay(delay)
        self.reason = reason


class Snooze(HandlerSignal):
    """Not now: the task is scheduled again after ``delay`` and the attempt is not charged.

    Args:
        delay: The wait, as a timedelta or in seconds; 0 to 30 days.

    Raises:
        ValueError: The delay is out of range.
    """

    def __init__(self, delay: timedelta | float) -> None:
        super().__init__()
        self.delay = _checked_delay(delay)


class CancelReason(StrEnum):
    """Why a handler's work is no longer wanted."""

    CANCELLED = "cancelled"
    """A caller cancelled or deleted the task."""
    TIMED_OUT = "timed_out"
    """The attempt timeout passed."""
    LEASE_LOST = "lease_lost"
    """The lease ran out or was ended elsewhere; another worker may have the task now."""
    SHUTDOWN = "shutdown"
    """The worker's own shutdown ran out of time; the task will be tried again at once."""


class TaskCancelled(Exception):
    """Raised by ``raise_if_cancelled`` of a handler's context.

    Attributes:
        reason: Why the work is no longer wanted.
    """

    def __init__(self, reason: CancelReason) -> None:
        super().__init__(f"the task's work is no longer wanted: {reason.value}")
        self.reason = reason


def _checked_delay(delay: timedelta | float) -> float:
    seconds = to_seconds(delay, "delay")
    if seconds > MAX_DELAY_SECONDS:
        raise ValueError("delay must be at most 30 days")
    return seconds
