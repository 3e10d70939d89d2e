"""What a worker tells the server about an attempt: pure functions from outcomes to messages."""

from __future__ import annotations

import traceback
from typing import Final

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from workerqueue._convert import to_duration
from workerqueue._errors import Discard, RetryLater, Snooze
from workerqueue._worker.lease import Answer
from workerqueue.v1 import lease_pb2, task_pb2

# The answer of most attempts: done, without a result. One for all, since it differs in the token
# alone, which its lease has; a message for each would be half of what sending it costs.
PLAIN_ACK: Final = lease_pb2.AckRequest()

MAX_RESULT_BYTES: Final = 1024 * 1024
MAX_TYPE_BYTES: Final = 256
MAX_MESSAGE_BYTES: Final = 8 * 1024
MAX_TRACE_BYTES: Final = 32 * 1024


def pack(message: Message) -> Any:
    """``message`` in an Any, or itself if it is one."""
    if isinstance(message, Any):
        return message
    return Any(
        type_url=f"type.googleapis.com/{message.DESCRIPTOR.full_name}",
        value=message.SerializeToString(),
    )


def success(token: bytes, returned: object) -> Answer:
    """The answer for a handler that returned."""
    if returned is None:
        return PLAIN_ACK
    if not isinstance(returned, Message):
        return failure(
            token,
            "InvalidResult",
            f"a handler returns None or a protobuf message, not {type(returned).__name__}",
        )
    result = pack(returned)
    if len(result.value) > MAX_RESULT_BYTES:
        return failure(
            token,
            "ResultTooLarge",
            f"the result has {len(result.value)} bytes; at most {MAX_RESULT_BYTES} are stored",
        )
    return lease_pb2.AckRequest(lease_token=token, result=result)


def raised(token: bytes, error: BaseException) -> Answer:
    """The answer for a handler that raised."""
    if isinstance(error, Snooze):
        return lease_pb2.NackRequest(
            lease_token=token, snooze=lease_pb2.Snooze(delay=to_duration(error.delay, "delay"))
        )
    if isinstance(error, Discard):
        return failure(token, type(error).__name__, error.reason, permanent=True)
    if isinstance(error, RetryLater):
        return failure(token, type(error).__name__, error.reason, retry_after=error.delay)
    return failure(token, type(error).__qualname__, _text_of(error), trace=_trace_of(error))


def failure(
    token: bytes,
    kind: str,
    message: str,
    *,
    trace: str = "",
    permanent: bool = False,
    retry_after: float | None = None,
) -> Answer:
    """A failed attempt."""
    fail = lease_pb2.Fail(
        error=task_pb2.TaskError(
            type=_head(kind, MAX_TYPE_BYTES),
            message=_head(message, MAX_MESSAGE_BYTES),
            trace=trace,
        ),
        permanent=permanent,
    )
    if retry_after is not None:
        fail.retry_after.CopyFrom(to_duration(retry_after, "retry_after"))
    return lease_pb2.NackRequest(lease_token=token, fail=fail)


def release(token: bytes) -> Answer:
    """An unstarted task given back."""
    return lease_pb2.NackRequest(lease_token=token, release=lease_pb2.Release())


def snooze(token: bytes, seconds: float) -> Answer:
    """A task put off."""
    return raised(token, Snooze(seconds))


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a handler's own __str__ may do anything
        return f"{type(error).__qualname__} (its text could not be made)"


def _trace_of(error: BaseException) -> str:
    # The first frame is this package's own call of the handler and tells the reader nothing.
    own = error.__traceback__
    shown = own.tb_next if own is not None and own.tb_next is not None else own
    try:
        text = "".join(traceback.format_exception(type(error), error, shown))
    except Exception:  # noqa: BLE001 - see above
        return ""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= MAX_TRACE_BYTES:
        return text
    # The end names the error and the line that raised it, so the middle is what can go.
    half = MAX_TRACE_BYTES // 2 - 16
    return (raw[:half] + b"\n... cut ...\n" + raw[-half:]).decode("utf-8", "ignore")


def _head(text: str, limit: int) -> str:
    raw = text.encode("utf-8", "replace")
    return raw.decode() if len(raw) <= limit else raw[:limit].decode("utf-8", "ignore")
