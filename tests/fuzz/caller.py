"""Sends bytes to a server and judges what comes back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

from workerqueue.v1 import error_pb2

# A machine that is busy with other things is no finding.
_SECONDS = 180.0
# A watch of a task that does not change goes on until its caller leaves.
_WATCH_SECONDS = 0.05
_REASONS = {
    name.removeprefix("ERROR_REASON_"): number for name, number in error_pb2.ErrorReason.items()
}
_RETRYABLE = (grpc.StatusCode.UNAVAILABLE.value[0], grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
_ALLOWED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
}
# What only the inside of the server could have said.
_LEAKS = re.compile(
    r"Traceback|psycopg|asyncpg|postgres(?!ql)|sqlstate|site-packages|\.py\b|\bself\b"
    r"|[A-Za-z]+Error\b|0x[0-9a-f]{6,}|relation \"|violates|\bDETAIL\b|\bCONTEXT\b",
)


def judge(status: status_pb2.Status, sent: str = "") -> None:
    """Fails unless the status is one that a client can act on and that gives nothing away."""
    code = next(c for c in grpc.StatusCode if c.value[0] == status.code)
    assert code in _ALLOWED, f"{code.name}: {status.message}"
    reasons, violations, retries = [], [], []
    for detail in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            assert info.domain == "workerqueue"
            reasons.append(info.reason)
        elif detail.Unpack(bad):
            violations += bad.field_violations
        else:
            assert detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR)
            retries.append(detail)
    assert len(reasons) == 1, f"no reason: {code.name} {status.message}"
    assert reasons[0] in _REASONS, reasons
    assert bool(retries) == (status.code in _RETRYABLE), f"retry? {code.name} {reasons[0]}"
    if code is grpc.StatusCode.INVALID_ARGUMENT and reasons[0] != "MALFORMED_MESSAGE":
        assert violations, f"no field: {reasons[0]} {status.message}"
        assert all(violation.field for violation in violations), violations
    assert status.message
    assert status.ByteSize() <= 8 * 1024, f"{status.ByteSize()} bytes of error do not fit a header"
    texts = [status.message, *(violation.description for violation in violations)]
    for text in texts:
        assert not _LEAKS.search(text.replace(sent, "")), text


class Caller:
    """Calls one server; counts what it answered."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self.outcomes: Counter[str] = Counter()

    def call(self, method: MethodDescriptor, data: bytes) -> Message | None:
        """One request; the last answer, or None if it was refused."""
        path = f"/{method.containing_service.full_name}/{method.name}"
        try:
            if method.server_streaming:
                answers = list(self._stream(path, [data], watch=method.name == "WatchTask"))
            else:
                unary: Any = self._channel.unary_unary(path)
                answers = [unary(data, timeout=_SECONDS)]
        except grpc.RpcError as error:
            self._refused(method.name, error)
            return None
        self.outcomes[f"{method.name} OK"] += 1
        read = [GetMessageClass(method.output_type).FromString(answer) for answer in answers]
        for message in read:
            judge_within(message)
        return read[-1] if read else None

    def lease(self, method: MethodDescriptor, frames: Sequence[bytes], *, leave: bool) -> None:
        """A worker's stream; with ``leave`` it is cut off after the first answer."""
        path = f"/{method.containing_service.full_name}/{method.name}"
        stream: Any = self._channel.stream_stream(path)
        call = stream(iter(frames), timeout=_SECONDS)
        try:
            for data in call:
                judge_within(GetMessageClass(method.output_type).FromString(data))
                if leave:
                    call.cancel()
                    break
        except grpc.RpcError as error:
            self._refused(method.name, error)
        else:
            self.outcomes["Lease OK"] += 1

    def _stream(self, path: str, requests: Sequence[bytes], *, watch: bool) -> Iterator[bytes]:
        stream: Any = self._channel.unary_stream(path)
        (data,) = requests
        call = stream(data, timeout=_SECONDS)
        for answer in call:
            yield answer
            if watch:
                call.cancel()
                return

    def _refused(self, name: str, error: grpc.RpcError) -> None:
        assert isinstance(error, grpc.Call)
        trailers = dict(error.trailing_metadata() or ())
        details = trailers.get("grpc-status-details-bin")
        assert details is not None, f"{name}: {error.code()} {error.details()}"
        assert isinstance(details, bytes)
        status = status_pb2.Status.FromString(details)
        assert status.code == error.code().value[0]
        judge(status)
        self.outcomes[f"{name} {error.code().name}"] += 1


def judge_within(message: Message) -> None:
    """Judges every status that an answer carries for one of its items."""
    if isinstance(message, status_pb2.Status):
        judge(message)
        return
    if isinstance(message, AnyMessage):
        return
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for item in value if field.is_repeated else [value]:
            judge_within(item)
