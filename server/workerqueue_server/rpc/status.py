"""One table from domain errors to gRPC statuses."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from workerqueue_server.queue import bounds, errors
from workerqueue_server.store.errors import DatabaseUnavailable

DOMAIN = "workerqueue"
_log = logging.getLogger(__name__)

_CODES: dict[type[errors.QueueError], int] = {
    errors.InvalidTask: code_pb2.INVALID_ARGUMENT,
    errors.UnknownKind: code_pb2.INVALID_ARGUMENT,
    errors.TooLarge: code_pb2.INVALID_ARGUMENT,
    errors.LeaseLost: code_pb2.FAILED_PRECONDITION,
    errors.TaskNotFound: code_pb2.NOT_FOUND,
    errors.QueueNotFound: code_pb2.NOT_FOUND,
    errors.ScheduleNotFound: code_pb2.NOT_FOUND,
    errors.ScheduleExists: code_pb2.ALREADY_EXISTS,
    errors.ScheduleFromFile: code_pb2.FAILED_PRECONDITION,
    errors.WrongState: code_pb2.FAILED_PRECONDITION,
    errors.KeyConflict: code_pb2.ALREADY_EXISTS,
    errors.TooManyLanes: code_pb2.FAILED_PRECONDITION,
    errors.ProtocolViolation: code_pb2.FAILED_PRECONDITION,
    errors.Unauthenticated: code_pb2.UNAUTHENTICATED,
    errors.RoleMissing: code_pb2.PERMISSION_DENIED,
    errors.OutOfScope: code_pb2.PERMISSION_DENIED,
    errors.BatchRefused: code_pb2.ABORTED,
    errors.KeyBusy: code_pb2.UNAVAILABLE,
    errors.Overloaded: code_pb2.RESOURCE_EXHAUSTED,
    errors.Unavailable: code_pb2.UNAVAILABLE,
    errors.Draining: code_pb2.UNAVAILABLE,
}


class MalformedMessage(errors.Refused):
    """The bytes are no message of the expected type."""

    reason = "MALFORMED_MESSAGE"


class UnknownMethod(errors.Refused):
    """The server has no such method."""

    reason = "UNKNOWN_METHOD"

    def __init__(self, path: str) -> None:
        super().__init__(f"this server has no method {path!r}")


_CODES[MalformedMessage] = code_pb2.INVALID_ARGUMENT
_CODES[UnknownMethod] = code_pb2.UNIMPLEMENTED


def status_of(error: BaseException) -> status_pb2.Status:
    """The status a client gets for an error.

    What is not a domain error is a fault of ours: it is logged under an id, and the client gets the
    id and nothing else.
    """
    if isinstance(error, DatabaseUnavailable):
        error = errors.Unavailable()
    if not isinstance(error, errors.QueueError):
        return _internal(error)
    code = next((_CODES[cls] for cls in type(error).__mro__ if cls in _CODES), None)
    if code is None:
        return _internal(error)
    metadata = {
        name: bounds.shorten(value, bounds.ERROR_METADATA_BYTES)
        for name, value in error.metadata.items()
    }
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    ]
    violations: list[errors.Violation] = getattr(error, "violations", [])
    if violations:
        details.append(_bad_request(violations))
    if isinstance(error, errors.TryLater):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(error.retry_after * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return _status(code, error.message, details)


def _bad_request(violations: Sequence[errors.Violation]) -> error_details_pb2.BadRequest:
    """The violations as far as they fit; the last one then tells how many are left out."""
    result = error_details_pb2.BadRequest()
    room = bounds.VIOLATIONS_BYTES
    for place, (field, description) in enumerate(violations):
        shown = error_details_pb2.BadRequest.FieldViolation(
            field=bounds.shorten(field, bounds.VIOLATION_FIELD_BYTES),
            description=bounds.shorten(description, bounds.VIOLATION_TEXT_BYTES),
        )
        room -= shown.ByteSize()
        if room < 0 and place > 0:
            shown.description = f"and {len(violations) - place} violations that are not shown"
        result.field_violations.append(shown)
        if room < 0:
            break
    return result


def _internal(error: BaseException) -> status_pb2.Status:
    error_id = uuid.uuid4().hex
    _log.error("internal error %s", error_id, exc_info=error)
    return _status(
        code_pb2.INTERNAL,
        f"internal error {error_id}; the server's log has the details",
        [
            error_details_pb2.ErrorInfo(
                reason="INTERNAL", domain=DOMAIN, metadata={"error_id": error_id}
            )
        ],
    )


def _status(code: int, message: str, details: list[Message]) -> status_pb2.Status:
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    short = bounds.shorten(message, bounds.STATUS_MESSAGE_BYTES)
    return status_pb2.Status(code=code, message=short, details=packed)
