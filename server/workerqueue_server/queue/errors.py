"""What the queue refuses, and why.

QueueError
 ├─ Refused              the caller must change something
 │   ├─ InvalidTask        bad options or payload, with the fields
 │   ├─ UnknownKind        no such kind; names the nearest known ones
 │   ├─ TooLarge           over a size limit
 │   ├─ LeaseLost          the token is not a live lease
 │   ├─ TaskNotFound       no such task
 │   ├─ QueueNotFound      no such queue
 │   ├─ ScheduleNotFound   no such schedule
 │   ├─ ScheduleExists     a schedule has this id
 │   ├─ ScheduleFromFile   a file declares the schedule
 │   ├─ WrongState         the task's state does not allow this
 │   ├─ KeyConflict        another live task holds the key
 │   ├─ ProtocolViolation  frames out of order
 │   ├─ Unauthenticated    who calls is not known
 │   │   ├─ TokenMissing     no bearer token
 │   │   ├─ TokenInvalid     not a token of this database
 │   │   ├─ TokenExpired     its time is over
 │   │   └─ TokenRevoked     an operator revoked it
 │   ├─ RoleMissing        the token is not for such calls
 │   ├─ OutOfScope         the token is not for such tasks
 │   └─ BatchRefused       another item of an all-or-nothing batch was refused
 └─ TryLater             the same call may succeed later
     ├─ KeyBusy            an open transaction has the same key
     ├─ Overloaded         too much waits already
     ├─ Unavailable        the database does not answer
     └─ Draining           this server is going away
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

# So many violations stand in a message; details have room for more.
_SAID = 20
_SHOWN = 200


class Violation(NamedTuple):
    """One field that is wrong."""

    field: str
    description: str


class QueueError(Exception):
    """Base of everything the queue refuses. ``reason`` is the name in the proto's ErrorReason."""

    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = metadata


class Refused(QueueError):
    """Repeating the same call is useless."""


class InvalidTask(Refused):
    """Options or payload break a rule."""

    reason = "INVALID_FIELD"

    def __init__(self, violations: Sequence[Violation], *, payload: bool = False) -> None:
        said = [f"{v.field}: {v.description}" for v in violations[:_SAID]]
        if len(violations) > _SAID:
            said.append(f"and {len(violations) - _SAID} more")
        super().__init__("; ".join(said))
        self.violations = list(violations)
        if payload:
            self.reason = "INVALID_PAYLOAD"  # type: ignore[misc]


class UnknownKind(Refused):
    """No kind of that name or type."""

    reason = "UNKNOWN_KIND"

    def __init__(self, field: str, name: str, nearest: Sequence[str]) -> None:
        hint = f"; did you mean {', '.join(nearest)}?" if nearest else ""
        # The name is whatever the caller sent, however long.
        super().__init__(f"unknown task kind {name[:_SHOWN]!r}{hint}")
        self.violations = [Violation(field, self.message)]


class TooLarge(Refused):
    """Over a size limit."""

    reason = "TOO_LARGE"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.violations = [Violation(field, message)]


class LeaseLost(Refused):
    """The token is not, or no longer, the task's live lease."""

    reason = "LEASE_LOST"

    def __init__(self) -> None:
        super().__init__("the lease token is not a live lease; nothing was changed")


class TaskNotFound(Refused):
    """No such task."""

    reason = "TASK_NOT_FOUND"


class QueueNotFound(Refused):
    """No such queue."""

    reason = "QUEUE_NOT_FOUND"

    def __init__(self, queue: str) -> None:
        super().__init__(f"there is no queue {queue!r}", queue=queue)


class ScheduleNotFound(Refused):
    """No such schedule."""

    reason = "SCHEDULE_NOT_FOUND"

    def __init__(self, schedule_id: str) -> None:
        super().__init__(f"there is no schedule {schedule_id!r}", schedule_id=schedule_id)


class ScheduleExists(Refused):
    """A schedule has this id."""

    reason = "SCHEDULE_EXISTS"

    def __init__(self, schedule_id: str) -> None:
        super().__init__(f"there is a schedule {schedule_id!r} already", schedule_id=schedule_id)


class ScheduleFromFile(Refused):
    """A file declares the schedule, so it is changed there."""

    reason = "SCHEDULE_FROM_FILE"

    def __init__(self, schedule_id: str, owner: str) -> None:
        super().__init__(
            f"a file (owner {owner!r}) declares the schedule {schedule_id!r}: change it there",
            schedule_id=schedule_id,
            owner=owner,
        )


class WrongState(Refused):
    """The task's state does not allow this."""

    reason = "WRONG_STATE"

    def __init__(self, task_id: str, state: str, advice: str) -> None:
        super().__init__(f"the task is {state}: {advice}", task_id=task_id, state=state)


class KeyConflict(Refused):
    """Another live task holds the key; metadata ``task_id`` names it."""

    reason = "KEY_CONFLICT"


class TooManyLanes(Refused):
    """A queue, kind and priority that never met before, and there are enough that did."""

    reason = "TOO_MANY_LANES"

    def __init__(self, bound: int, queue: str) -> None:
        super().__init__(
            f"there are {bound} combinations of queue, kind and priority already, and this server "
            "makes no more (its setting max_lanes); for tasks that must not run side by side use a "
            "concurrency key, not a queue each",
            queue=queue,
        )


class ProtocolViolation(Refused):
    """Frames that the stream's protocol does not allow."""

    reason = "PROTOCOL_VIOLATION"


class Unauthenticated(Refused):
    """The server does not know who calls."""


class TokenMissing(Unauthenticated):
    """No bearer token."""

    reason = "TOKEN_MISSING"

    def __init__(self) -> None:
        super().__init__(
            "this server wants a bearer token: send the metadata `authorization: Bearer TOKEN`"
        )


class TokenInvalid(Unauthenticated):
    """Not a token of this database. What is wrong with it is nobody's business."""

    reason = "TOKEN_INVALID"

    def __init__(self) -> None:
        super().__init__("the bearer token is not valid")


class TokenExpired(Unauthenticated):
    """The token's time is over."""

    reason = "TOKEN_EXPIRED"

    def __init__(self) -> None:
        super().__init__("the bearer token has expired")


class TokenRevoked(Unauthenticated):
    """An operator revoked the token."""

    reason = "TOKEN_REVOKED"

    def __init__(self) -> None:
        super().__init__("the bearer token was revoked")


class RoleMissing(Refused):
    """The token's roles do not allow this call."""

    reason = "ROLE_MISSING"


class OutOfScope(Refused):
    """The token's scope does not have the task's queue or kind."""

    reason = "OUT_OF_SCOPE"

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = list(violations)


class BatchRefused(Refused):
    """Another item of an all-or-nothing batch was refused."""

    reason = "BATCH_REFUSED"

    def __init__(self, other: int) -> None:
        super().__init__(f"not enqueued: item {other} of the all-or-nothing batch was refused")


class TryLater(QueueError):
    """The same call may succeed later; ``retry_after`` is in seconds."""

    retry_after: ClassVar[float] = 1.0


class KeyBusy(TryLater):
    """An open transaction of somebody else has enqueued with the same key."""

    reason = "KEY_BUSY"
    retry_after = 0.5

    def __init__(self) -> None:
        super().__init__(
            "another transaction has enqueued with this job key or unique key and is still open; "
            "try again"
        )


class Overloaded(TryLater):
    """Too much waits already."""

    reason = "OVERLOADED"
    retry_after = 0.2


class Unavailable(TryLater):
    """The database does not answer."""

    reason = "DATABASE_UNAVAILABLE"
    retry_after = 1.0

    def __init__(self) -> None:
        super().__init__("the database does not answer; try again")


class Draining(TryLater):
    """This server is going away."""

    reason = "DRAINING"
    retry_after = 0.1

    def __init__(self) -> None:
        super().__init__("this server is going away; try again on another one")
