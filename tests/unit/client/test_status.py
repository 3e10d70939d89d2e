"""From statuses to exceptions."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2

import workerqueue as wq
from tests.unit.client.peer import error_status
from workerqueue._status import from_status
from workerqueue.v1 import error_pb2


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", wq.InvalidRequestError),
        (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAYLOAD", wq.InvalidPayloadError),
        (grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_KIND", wq.UnknownKindError),
        (grpc.StatusCode.INVALID_ARGUMENT, "TOO_LARGE", wq.TooLargeError),
        (grpc.StatusCode.FAILED_PRECONDITION, "LEASE_LOST", wq.LeaseLostError),
        (grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE", wq.WrongStateError),
        (grpc.StatusCode.FAILED_PRECONDITION, "PROTOCOL_VIOLATION", wq.ProtocolError),
        (grpc.StatusCode.FAILED_PRECONDITION, "A_NEW_REASON", wq.PreconditionError),
        (grpc.StatusCode.ABORTED, "BATCH_REFUSED", wq.BatchRefusedError),
        (grpc.StatusCode.UNAVAILABLE, "", wq.UnavailableError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "", wq.OverloadedError),
        (grpc.StatusCode.UNAUTHENTICATED, "", wq.AuthenticationError),
        (grpc.StatusCode.PERMISSION_DENIED, "", wq.PermissionDeniedError),
        (grpc.StatusCode.NOT_FOUND, "", wq.TaskNotFoundError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", wq.DeadlineError),
        (grpc.StatusCode.DATA_LOSS, "", wq.ServerError),
    ],
)
def test_the_class_follows_reason_and_code(
    code: grpc.StatusCode, reason: str, expected: type[wq.WorkerQueueError]
) -> None:
    error = from_status(error_status(code, reason))
    assert type(error) is expected
    assert error.code is code
    assert error.reason == reason


def test_every_reason_of_the_contract_has_a_class() -> None:
    # Those from 20 to 29 belong to the operator's service, which this package does not call for
    # queues and schedules.
    for name, number in error_pb2.ErrorReason.items():
        if 0 < number < 20 or number >= 30:
            reason = name.removeprefix("ERROR_REASON_")
            error = from_status(error_status(grpc.StatusCode.UNKNOWN, reason))
            of_the_server = reason in {"INTERNAL", "UNKNOWN_METHOD"}
            assert (type(error) is wq.ServerError) == of_the_server, reason


def test_details_are_carried() -> None:
    status = error_status(
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_PAYLOAD",
        error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(
                    field="payload.id", description="must not be empty"
                )
            ]
        ),
        message="bad payload",
    )
    error = from_status(status)
    assert error.violations == (wq.FieldViolation("payload.id", "must not be empty"),)
    assert str(error) == "bad payload; payload.id: must not be empty"


def test_retry_info_becomes_seconds() -> None:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    error = from_status(error_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", retry))
    assert error.retry_after == 1.5


def test_facts_of_an_error_are_properties() -> None:
    info = error_details_pb2.ErrorInfo(
        reason="KEY_CONFLICT", domain="workerqueue", metadata={"task_id": "t"}
    )
    conflict = from_status(error_status(grpc.StatusCode.ALREADY_EXISTS, "", info))
    assert isinstance(conflict, wq.KeyConflictError)
    assert conflict.task_id == "t"


def test_reasons_of_other_domains_are_not_ours() -> None:
    info = error_details_pb2.ErrorInfo(reason="LEASE_LOST", domain="proxy.example")
    error = from_status(error_status(grpc.StatusCode.FAILED_PRECONDITION, "", info))
    assert type(error) is wq.PreconditionError
