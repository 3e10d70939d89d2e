"""Client and worker for the workerqueue server.

Producers use ``Client`` or ``AsyncClient``, workers use ``Worker``. Neither needs a database, nor
anything of the server but its address.
"""

from workerqueue._async_client import AsyncClient
from workerqueue._client import Client
from workerqueue._enqueue import (
    BatchResult,
    EnqueueItem,
    EnqueueOptions,
    EnqueueOutcome,
    Retention,
    RetryPolicy,
    TaskHandle,
)
from workerqueue._errors import (
    AuthenticationError,
    BatchRefusedError,
    CancelReason,
    DeadlineError,
    Discard,
    FieldViolation,
    HandlerSignal,
    InvalidPayloadError,
    InvalidRequestError,
    KeyConflictError,
    LeaseLostError,
    OverloadedError,
    PermissionDeniedError,
    PreconditionError,
    ProtocolError,
    RetryLater,
    ServerError,
    Snooze,
    TaskCancelled,
    TaskNotFoundError,
    TooLargeError,
    UnavailableError,
    UnknownKindError,
    WorkerQueueError,
    WrongStateError,
)
from workerqueue._kinds import kind_of
from workerqueue._unique import JobKeyMode, Unique
from workerqueue._uuid7 import uuid7
from workerqueue._worker.context import SyncTaskContext, TaskContext
from workerqueue._worker.worker import Worker

__all__ = [
    "AsyncClient",
    "AuthenticationError",
    "BatchRefusedError",
    "BatchResult",
    "CancelReason",
    "Client",
    "DeadlineError",
    "Discard",
    "EnqueueItem",
    "EnqueueOptions",
    "EnqueueOutcome",
    "FieldViolation",
    "HandlerSignal",
    "InvalidPayloadError",
    "InvalidRequestError",
    "JobKeyMode",
    "KeyConflictError",
    "LeaseLostError",
    "OverloadedError",
    "PermissionDeniedError",
    "PreconditionError",
    "ProtocolError",
    "Retention",
    "RetryLater",
    "RetryPolicy",
    "ServerError",
    "Snooze",
    "SyncTaskContext",
    "TaskCancelled",
    "TaskContext",
    "TaskHandle",
    "TaskNotFoundError",
    "TooLargeError",
    "UnavailableError",
    "Unique",
    "UnknownKindError",
    "Worker",
    "WorkerQueueError",
    "WrongStateError",
    "kind_of",
    "uuid7",
]
