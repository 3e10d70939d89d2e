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
    Retention,
    RetryPolicy,
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
    TaskFailedError,
    TaskNotFoundError,
    TooLargeError,
    UnavailableError,
    UnknownKindError,
    WorkerQueueError,
    WrongStateError,
)
from workerqueue._kinds import kind_of
from workerqueue._loading import LoadProgress
from workerqueue._outcomes import EnqueueOutcome
from workerqueue._results import AsyncTaskHandle, TaskHandle
from workerqueue._security import Tls
from workerqueue._unique import JobKeyMode, Unique
from workerqueue._uuid7 import uuid7
from workerqueue._worker.context import SyncTaskContext, TaskContext
from workerqueue._worker.worker import Worker

__all__ = [
    "AsyncClient",
    "AsyncTaskHandle",
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
    "LoadProgress",
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
    "TaskFailedError",
    "TaskHandle",
    "TaskNotFoundError",
    "Tls",
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
