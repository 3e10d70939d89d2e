"""From a worker's acks, nacks and heartbeats to what the queue takes."""

from __future__ import annotations

from workerqueue.v1 import lease_pb2
from workerqueue_server.queue import bounds
from workerqueue_server.queue.errors import InvalidTask, LeaseLost, TooLarge, Violation
from workerqueue_server.queue.leases import Finish
from workerqueue_server.queue.policy import Checker
from workerqueue_server.store.records import Prolongation, Return
from workerqueue_server.store.tasks import TOKEN_BYTES


def read_token(token: bytes) -> bytes:
    """The token. Raises InvalidTask if it is missing, LeaseLost if it cannot be one of ours."""
    if not token:
        raise InvalidTask([Violation("lease_token", "is required")])
    if len(token) != TOKEN_BYTES:
        raise LeaseLost
    return token


def read_ack(request: lease_pb2.AckRequest) -> Finish:
    """An ack. Raises Refused."""
    token = request.lease_token
    if len(token) != TOKEN_BYTES:
        read_token(token)
    if not request.HasField("result"):
        return Finish(token)
    result = request.result.SerializeToString()
    if len(result) > bounds.RESULT_BYTES:
        raise TooLarge("result", f"at most {bounds.RESULT_BYTES} bytes, not {len(result)}")
    return Finish(token, result)


def read_nack(request: lease_pb2.NackRequest) -> Return:
    """A nack. Raises Refused."""
    token = read_token(request.lease_token)
    action = request.WhichOneof("action")
    check = Checker("")
    if action == "release":
        return Return(token, "release")
    if action == "snooze":
        delay = check.milliseconds("snooze.delay", request.snooze.delay, bounds.RETRY_AFTER_MS)
        if not request.snooze.HasField("delay"):
            check.fail("snooze.delay", "is required")
        item = Return(token, "snooze", retry_ms=delay)
    elif action == "fail":
        fail = request.fail
        retry_ms = (
            check.milliseconds("fail.retry_after", fail.retry_after, bounds.RETRY_AFTER_MS)
            if fail.HasField("retry_after")
            else None
        )
        item = Return(token, "fail", _error(fail), retry_ms, fail.permanent)
    else:
        raise InvalidTask([Violation("action", "is required: set fail, release or snooze")])
    if check.violations:
        raise InvalidTask(check.violations)
    return item


def _error(fail: lease_pb2.Fail) -> dict[str, str]:
    return {
        "type": bounds.shorten(fail.error.type, bounds.ERROR_TYPE_BYTES),
        "message": bounds.shorten(fail.error.message, bounds.ERROR_MESSAGE_BYTES),
        "trace": bounds.shorten(fail.error.trace, bounds.ERROR_TRACE_BYTES),
    }


def read_heartbeat(request: lease_pb2.HeartbeatRequest) -> Prolongation:
    """A heartbeat. Raises Refused."""
    token = read_token(request.lease_token)
    progress: float | None = None
    message: str | None = None
    if request.HasField("progress"):
        check = Checker("progress.")
        progress = check.share("fraction", request.progress.fraction, (0.0, 1.0))
        if check.violations:
            raise InvalidTask(check.violations)
        message = bounds.shorten(request.progress.message, bounds.PROGRESS_MESSAGE_BYTES)
    checkpoint: bytes | None = None
    if request.HasField("checkpoint"):
        checkpoint = request.checkpoint.SerializeToString()
        if len(checkpoint) > bounds.CHECKPOINT_BYTES:
            raise TooLarge(
                "checkpoint", f"at most {bounds.CHECKPOINT_BYTES} bytes, not {len(checkpoint)}"
            )
    return Prolongation(token, progress, message, checkpoint)
