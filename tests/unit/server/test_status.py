"""The one table from errors to statuses: complete, and every status fits what clients accept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

from workerqueue.v1 import error_pb2
from workerqueue_server.queue import bounds, errors
from workerqueue_server.rpc.status import DOMAIN, MalformedMessage, status_of
from workerqueue_server.store.errors import DatabaseUnavailable, StatementFailed

_RETRYABLE = {code_pb2.UNAVAILABLE, code_pb2.RESOURCE_EXHAUSTED}
# gRPC clients refuse trailers over 16 KiB, and from 8 KiB on by chance.
_SAFE_TRAILERS = 8 * 1024
_NAMED = {
    value.name.removeprefix("ERROR_REASON_") for value in error_pb2.ErrorReason.DESCRIPTOR.values
}
_LONG = "\U0001f4a5" * 10_000


def _all(base: type[errors.QueueError]) -> Iterator[type[errors.QueueError]]:
    for child in base.__subclasses__():
        yield child
        yield from _all(child)


_CONCRETE = [cls for cls in _all(errors.QueueError) if "reason" in vars(cls)]


def _made(cls: type[errors.QueueError]) -> errors.QueueError:
    """An error of the class, without its constructor's own arguments."""
    error = cls.__new__(cls)
    errors.QueueError.__init__(error, "what happened", name="value")
    return error


def _reason(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo()
    (packed,) = [detail for detail in status.details if detail.Is(info.DESCRIPTOR)]
    packed.Unpack(info)
    return info


@pytest.mark.parametrize("cls", _CONCRETE, ids=lambda cls: cls.__name__)
def test_every_domain_error_has_a_status_a_reason_and_a_delay_if_it_is_worth_repeating(
    cls: type[errors.QueueError], caplog: pytest.LogCaptureFixture
) -> None:
    status = status_of(_made(cls))
    assert status.code not in (code_pb2.OK, code_pb2.INTERNAL, code_pb2.UNKNOWN)
    info = _reason(status)
    assert info.domain == DOMAIN
    assert info.reason == cls.reason
    assert info.reason in _NAMED
    retries = [d for d in status.details if d.Is(error_details_pb2.RetryInfo.DESCRIPTOR)]
    assert len(retries) == (1 if issubclass(cls, errors.TryLater) else 0)
    assert (status.code in _RETRYABLE) == issubclass(cls, errors.TryLater)
    for retry in retries:
        read = error_details_pb2.RetryInfo()
        retry.Unpack(read)
        assert read.retry_delay.ToMilliseconds() > 0
    assert caplog.records == []


def test_every_reason_of_the_contract_has_an_error() -> None:
    made = {cls.reason for cls in _CONCRETE} | {"INVALID_PAYLOAD", "INTERNAL", "UNSPECIFIED"}
    assert made == _NAMED


def test_a_silent_database_is_unavailable_and_says_nothing_of_the_database() -> None:
    status = status_of(DatabaseUnavailable("connection to host=db.internal password=x failed"))
    assert (status.code, _reason(status).reason) == (
        code_pb2.UNAVAILABLE,
        "DATABASE_UNAVAILABLE",
    )
    assert b"db.internal" not in status.SerializeToString()


@pytest.mark.parametrize(
    "error",
    [
        StatementFailed("23505: duplicate key (payload)=(secret)"),
        ValueError("secret"),
        errors.QueueError("secret"),
        RecursionError("secret"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_fault_gives_an_id_away_and_nothing_else(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        status = status_of(error)
    assert status.code == code_pb2.INTERNAL
    assert b"secret" not in status.SerializeToString()
    error_id = _reason(status).metadata["error_id"]
    assert error_id in status.message
    assert error_id in caplog.text


def _trailers(status: status_pb2.Status) -> int:
    """What the status takes: percent-encoded text, and all of it in base64."""
    text = sum(1 if 0x20 <= byte < 0x7F else 3 for byte in status.message.encode())
    return (
        int(text)
        + (int(status.ByteSize()) + 2) // 3 * 4
        + len("grpc-messagegrpc-status-details-bin")
    )


@pytest.mark.parametrize(
    "make",
    [
        # Made by the test, not with the module: these are large.
        lambda: errors.InvalidTask([errors.Violation(_LONG, _LONG)] * 10_000),
        lambda: errors.InvalidTask([errors.Violation("f" * 100, "d" * 60)] * 10_000),
        lambda: errors.UnknownKind(_LONG, _LONG, [_LONG]),
        lambda: errors.TooLarge(_LONG, _LONG),
        lambda: errors.ScheduleFromFile(_LONG, _LONG),
        lambda: MalformedMessage(_LONG),
        lambda: errors.QueueNotFound("\x00" * 10_000),
    ],
)
def test_no_status_is_larger_than_clients_accept(make: Callable[[], errors.QueueError]) -> None:
    error = make()
    status = status_of(error)
    assert _trailers(status) < _SAFE_TRAILERS
    assert _reason(status).reason == error.reason


def test_a_message_names_some_violations_and_counts_the_others() -> None:
    error = errors.InvalidTask([errors.Violation(f"f{n}", "is wrong") for n in range(10_000)])
    assert error.message.startswith("f0: is wrong; f1: is wrong; ")
    assert error.message.endswith("; f19: is wrong; and 9980 more")


def test_what_is_left_out_is_counted() -> None:
    bad = error_details_pb2.BadRequest()
    violations = [errors.Violation(f"field[{n}]", "is wrong") for n in range(1_000)]
    status = status_of(errors.InvalidTask(violations))
    assert any(detail.Unpack(bad) for detail in status.details)
    *shown, last = bad.field_violations
    assert [violation.field for violation in shown] == [f"field[{n}]" for n in range(len(shown))]
    assert last.description == f"and {1_000 - len(shown)} violations that are not shown"
    assert sum(v.ByteSize() for v in shown) <= bounds.VIOLATIONS_BYTES
