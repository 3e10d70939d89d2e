"""From gRPC statuses to this package's exceptions: one table, used by every path."""

from __future__ import annotations

from typing import Any as AnyType
from typing import Final

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from workerqueue import _errors as errors
from workerqueue._convert import from_duration

DOMAIN: Final = "workerqueue"
_DETAILS_KEY: Final = "grpc-status-details-bin"

_BY_REASON: Final[dict[str, type[errors.WorkerQueueError]]] = {
    "INVALID_FIELD": errors.InvalidRequestError,
    "INVALID_PAYLOAD": errors.InvalidPayloadError,
    "UNKNOWN_KIND": errors.UnknownKindError,
    "TOO_LARGE": errors.TooLargeError,
    "MALFORMED_MESSAGE": errors.InvalidRequestError,
    "TASK_NOT_FOUND": errors.TaskNotFoundError,
    "KEY_CONFLICT": errors.KeyConflictError,
    "LEASE_LOST": errors.LeaseLostError,
    "PROTOCOL_VIOLATION": errors.ProtocolError,
    "WRONG_STATE": errors.WrongStateError,
    "TOO_MANY_LANES": errors.PreconditionError,
    "KEY_BUSY": errors.UnavailableError,
    "OVERLOADED": errors.OverloadedError,
    "DATABASE_UNAVAILABLE": errors.UnavailableError,
    "DRAINING": errors.UnavailableError,
    "BATCH_REFUSED": errors.BatchRefusedError,
    "INTERNAL": errors.ServerError,
    "TOKEN_MISSING": errors.AuthenticationError,
    "TOKEN_INVALID": errors.AuthenticationError,
    "TOKEN_EXPIRED": errors.AuthenticationError,
    "TOKEN_REVOKED": errors.AuthenticationError,
    "ROLE_MISSING": errors.PermissionDeniedError,
    "OUT_OF_SCOPE": errors.PermissionDeniedError,
    "UNKNOWN_METHOD": errors.ServerError,
}

_BY_CODE: Final[dict[grpc.StatusCode, type[errors.WorkerQueueError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: errors.TaskNotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: errors.KeyConflictError,
    grpc.StatusCode.FAILED_PRECONDITION: errors.PreconditionError,
    grpc.StatusCode.ABORTED: errors.BatchRefusedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.OverloadedError,
    grpc.StatusCode.UNAVAILABLE: errors.UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineError,
    grpc.StatusCode.UNAUTHENTICATED: errors.AuthenticationError,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDeniedError,
}

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


def from_status(status: status_pb2.Status) -> errors.WorkerQueueError:
    """The exception for a ``google.rpc.Status``, such as one item's of a batch."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return _build(code, status.message, list(status.details))


def from_rpc_error(error: grpc.RpcError) -> errors.WorkerQueueError:
    """The exception for a failed call, sync or async."""
    code = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
    message = (error.details() if hasattr(error, "details") else None) or ""
    return _build(code, message, _details_of(error))


def reason_of(status: status_pb2.Status) -> str:
    """The ``ErrorInfo`` reason of a status, or an empty string."""
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            if info.domain == DOMAIN:
                return str(info.reason)
    return ""


def _details_of(error: grpc.RpcError) -> list[Any]:
    if not hasattr(error, "trailing_metadata"):
        return []
    trailers: AnyType = error.trailing_metadata() or ()
    for key, value in trailers:
        if key == _DETAILS_KEY:
            try:
                return list(status_pb2.Status.FromString(value).details)
            except DecodeError:
                # A proxy may have put anything there; the plain status still says what matters.
                return []
    return []


def _build(code: grpc.StatusCode, message: str, details: list[Any]) -> errors.WorkerQueueError:
    reason = ""
    metadata: dict[str, str] = {}
    violations: list[errors.FieldViolation] = []
    retry_after: float | None = None
    for detail in details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            if info.domain == DOMAIN:
                reason, metadata = info.reason, dict(info.metadata)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            detail.Unpack(bad)
            violations = [
                errors.FieldViolation(v.field, v.description) for v in bad.field_violations
            ]
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after = from_duration(retry.retry_delay)
    kind = _BY_REASON.get(reason) or _BY_CODE.get(code, errors.ServerError)
    return kind(
        message,
        code=code,
        reason=reason,
        violations=violations,
        retry_after=retry_after,
        metadata=metadata,
    )
