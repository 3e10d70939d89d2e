"""What an enqueue did."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from workerqueue.v1 import worker_queue_pb2


class EnqueueOutcome(StrEnum):
    """What an enqueue did."""

    CREATED = "created"
    """A new task was stored."""
    ALREADY_EXISTED = "already_existed"
    """The ``task_id`` was known: the first task is the answer, nothing was changed."""
    REPLACED = "replaced"
    """A waiting task had the job key and took what the new one says; it is the answer."""
    KEPT = "kept"
    """A task with the job key, or the same task, exists and is the answer; nothing was changed."""
    UNKNOWN = "unknown"
    """An outcome that this version of the client has no name for."""


_OUTCOMES: Final = {
    worker_queue_pb2.ENQUEUE_OUTCOME_CREATED: EnqueueOutcome.CREATED,
    worker_queue_pb2.ENQUEUE_OUTCOME_ALREADY_EXISTED: EnqueueOutcome.ALREADY_EXISTED,
    worker_queue_pb2.ENQUEUE_OUTCOME_REPLACED: EnqueueOutcome.REPLACED,
    worker_queue_pb2.ENQUEUE_OUTCOME_KEPT: EnqueueOutcome.KEPT,
}


def outcome_of(value: worker_queue_pb2.EnqueueOutcome) -> EnqueueOutcome:
    """The contract's value by its name here."""
    return _OUTCOMES.get(value, EnqueueOutcome.UNKNOWN)
