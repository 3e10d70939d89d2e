"""What a handler is given beside its payload."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TypeVar

from google.protobuf.message import Message

from workerqueue._convert import from_duration
from workerqueue._errors import CancelReason, TaskCancelled
from workerqueue._worker.answers import pack
from workerqueue._worker.lease import Lease
from workerqueue._worker.ledger import Ledger
from workerqueue.v1 import task_pb2

M = TypeVar("M", bound=Message)


class BaseContext:
    """One attempt, as its handler sees it. Safe to use from any thread."""

    __slots__ = ("_lease", "_ledger", "_reason")

    def __init__(self, lease: Lease, ledger: Ledger) -> None:
        self._lease = lease
        self._ledger = ledger
        self._reason: CancelReason | None = None

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self._lease.task.task_id

    @property
    def kind(self) -> str:
        """The task's kind, such as ``startRun``."""
        return self._lease.task.kind

    @property
    def queue(self) -> str:
        """The queue it came from."""
        return self._lease.task.queue

    @property
    def priority(self) -> int:
        """The task's priority."""
        return self._lease.task.priority

    @property
    def attempt(self) -> int:
        """This attempt's number, 1 for the first."""
        return self._lease.task.attempt

    @property
    def max_attempts(self) -> int:
        """Attempts the task gets in all."""
        return self._lease.task.max_attempts

    @property
    def concurrency_key(self) -> str:
        """The task's concurrency key; empty: none."""
        return self._lease.task.concurrency_key

    @property
    def created_at(self) -> datetime:
        """When the task was enqueued (the server's clock)."""
        return self._lease.task.created_at.ToDatetime(tzinfo=UTC)

    @property
    def metadata(self) -> Mapping[str, str]:
        """The producer's notes."""
        return self._lease.task.metadata

    @property
    def lease_token(self) -> bytes:
        """Names this attempt's lease; opaque, and useful as a fencing token elsewhere."""
        return self._lease.token

    @property
    def lease_duration(self) -> float:
        """How long the server waits without a heartbeat, in seconds. The worker sends them."""
        return from_duration(self._lease.task.lease_duration)

    @property
    def timeout(self) -> float:
        """The hard limit on this attempt, in seconds from its grant."""
        return from_duration(self._lease.task.timeout)

    @property
    def time_left(self) -> float:
        """Seconds until this attempt ends whatever the handler does; never below 0."""
        return max(0.0, self._lease.arrived + self.timeout - time.monotonic())

    @property
    def is_cancelled(self) -> bool:
        """Whether the work is no longer wanted."""
        return self._reason is not None

    @property
    def cancel_reason(self) -> CancelReason | None:
        """Why the work is no longer wanted; None while it is."""
        return self._reason

    def raise_if_cancelled(self) -> None:
        """Returns while the work is wanted.

        Raises:
            TaskCancelled: It no longer is.
        """
        if self._reason is not None:
            raise TaskCancelled(self._reason)

    def checkpoint(self, message_class: type[M]) -> M | None:
        """What the last attempt stored, or None if no attempt stored anything.

        Args:
            message_class: The message that was stored.

        Raises:
            TypeError: Another type of message was stored.
        """
        if not self._lease.task.HasField("checkpoint"):
            return None
        packed = self._lease.task.checkpoint
        message = message_class()
        if not packed.Unpack(message):
            wanted = message_class.DESCRIPTOR.full_name
            raise TypeError(f"the checkpoint is a {packed.TypeName()}, not a {wanted}")
        return message

    def progress(self, fraction: float, message: str = "") -> None:
        """Tells how far the work is. Never waits; sent at most about once a second.

        Args:
            fraction: 0 to 1.
            message: For people, such as "page 7 of 20"; at most 1 KiB.

        Raises:
            ValueError: The fraction is out of range.
        """
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"fraction must be between 0 and 1, not {fraction!r}")
        self._ledger.note_progress(
            self._lease, task_pb2.Progress(fraction=fraction, message=message)
        )

    def mark_cancelled(self, reason: CancelReason) -> None:
        """For the worker: the work is no longer wanted."""
        self._reason = reason


class TaskContext(BaseContext):
    """One attempt, as an async handler sees it.

    When the work is no longer wanted, the handler's asyncio task is cancelled: it meets
    CancelledError at its next ``await``. ``cancel_reason`` says why.
    """

    __slots__ = ("_event",)

    def __init__(self, lease: Lease, ledger: Ledger) -> None:
        super().__init__(lease, ledger)
        self._event: asyncio.Event | None = None

    @property
    def cancelled(self) -> asyncio.Event:
        """Set when the work is no longer wanted. For the tasks that a handler starts itself."""
        if self._event is None:
            self._event = asyncio.Event()
            if self._reason is not None:
                self._event.set()
        return self._event

    async def save_checkpoint(self, message: Message) -> None:
        """Stores what the next attempt is to know if this one does not finish.

        Args:
            message: Any protobuf message, at most 1 MiB; replaces the last checkpoint.

        Raises:
            LeaseLostError: The attempt is over.
            InvalidRequestError: The message is too large.
        """
        await asyncio.wrap_future(self._ledger.save_checkpoint(self._lease, pack(message)))

    def mark_cancelled(self, reason: CancelReason) -> None:
        """For the worker: the work is no longer wanted."""
        super().mark_cancelled(reason)
        if self._event is not None:
            self._event.set()


class SyncTaskContext(BaseContext):
    """One attempt, as a sync handler sees it.

    A thread cannot be cancelled: a handler that may run long asks ``is_cancelled`` or calls
    ``raise_if_cancelled`` now and then.
    """

    __slots__ = ("_event",)

    def __init__(self, lease: Lease, ledger: Ledger) -> None:
        super().__init__(lease, ledger)
        self._event = threading.Event()

    def wait_cancelled(self, timeout: float | None = None) -> bool:
        """Waits until the work is no longer wanted; a sleep that ends early.

        Args:
            timeout: The longest wait, in seconds. Default: none.

        Returns:
            Whether the work is no longer wanted.
        """
        return self._event.wait(timeout)

    def save_checkpoint(self, message: Message, timeout: float | None = None) -> None:
        """Stores what the next attempt is to know if this one does not finish.

        Args:
            message: Any protobuf message, at most 1 MiB; replaces the last checkpoint.
            timeout: Seconds to wait for the server. Default: as long as it takes.

        Raises:
            LeaseLostError: The attempt is over.
            InvalidRequestError: The message is too large.
            TimeoutError: No answer in time; it may still be stored.
        """
        self._ledger.save_checkpoint(self._lease, pack(message)).result(timeout)

    def mark_cancelled(self, reason: CancelReason) -> None:
        """For the worker: the work is no longer wanted."""
        super().mark_cancelled(reason)
        self._event.set()
