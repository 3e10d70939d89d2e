"""Waiting for a task's result: what its end means, and handles that wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any as AnyType
from typing import Final, TypeVar, overload

import grpc
import grpc.aio
from google.protobuf import symbol_database
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from workerqueue import _channel
from workerqueue._errors import DeadlineError, TaskFailedError, UnavailableError, WorkerQueueError
from workerqueue._outcomes import EnqueueOutcome
from workerqueue._status import from_rpc_error
from workerqueue.v1 import task_admin_pb2, task_pb2

M = TypeVar("M", bound=Message)

_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 3.0
_ENDED: Final = {
    task_pb2.TASK_STATE_SUCCEEDED,
    task_pb2.TASK_STATE_DEAD,
    task_pb2.TASK_STATE_CANCELLED,
    task_pb2.TASK_STATE_EXPIRED,
}


@dataclass(frozen=True, slots=True)
class StoredTask:
    """A stored task.

    Attributes:
        task_id: The task's id.
        outcome: What the enqueue did.
        task: The task as the server stored it.
    """

    task_id: str
    outcome: EnqueueOutcome
    task: task_pb2.Task = field(repr=False)


@dataclass(frozen=True, slots=True)
class TaskHandle(StoredTask):
    """A stored task, and a way to wait for its result.

    Attributes:
        task_id: The task's id.
        outcome: What the enqueue did.
        task: The task as the server stored it.
    """

    _wait: Callable[[str, float | None], task_pb2.Task] = field(repr=False, compare=False)

    @overload
    def result(self, timeout: float | None = None) -> Message | None: ...
    @overload
    def result(self, timeout: float | None = None, *, message_class: type[M]) -> M: ...
    def result(
        self, timeout: float | None = None, *, message_class: type[M] | None = None
    ) -> Message | None:
        """Waits for the task to end and returns what its worker returned.

        It is no matter which server the task runs on, nor whether servers restart meanwhile.

        Args:
            timeout: Seconds to wait. Default: for ever.
            message_class: The result's class. Default: the class this process knows for the
                result's type, or the ``Any`` itself if it knows none.

        Returns:
            The result; None if the worker returned nothing.

        Raises:
            TaskFailedError: The task is dead, was cancelled or has expired; it tells the error of
                the last attempt.
            TimeoutError: The task has not ended in time; it goes on.
            TaskNotFoundError: The task was deleted, or its retention is over.
            TypeError: The result is of another class.
        """
        return read_result(self._wait(self.task_id, timeout), message_class)


@dataclass(frozen=True, slots=True)
class AsyncTaskHandle(StoredTask):
    """A stored task, and a way to wait for its result.

    Attributes:
        task_id: The task's id.
        outcome: What the enqueue did.
        task: The task as the server stored it.
    """

    _wait: Callable[[str, float | None], Awaitable[task_pb2.Task]] = field(
        repr=False, compare=False
    )

    @overload
    async def result(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - as in TaskHandle
    ) -> Message | None: ...
    @overload
    async def result(
        self,
        timeout: float | None = None,  # noqa: ASYNC109
        *,
        message_class: type[M],
    ) -> M: ...
    async def result(
        self,
        timeout: float | None = None,  # noqa: ASYNC109
        *,
        message_class: type[M] | None = None,
    ) -> Message | None:
        """Waits for the task to end and returns its result; as ``TaskHandle.result``."""
        return read_result(await self._wait(self.task_id, timeout), message_class)


def read_result(task: task_pb2.Task, message_class: type[M] | None) -> Message | None:
    """What an ended task's end means to its producer; errors as in ``TaskHandle.result``."""
    if task.state != task_pb2.TASK_STATE_SUCCEEDED:
        raise TaskFailedError(task)
    if not task.HasField("result"):
        if message_class is not None:
            raise TypeError(f"the task has no result, so no {message_class.DESCRIPTOR.full_name}")
        return None
    return _unpack(task.result, message_class)


def _unpack(packed: Any, message_class: type[M] | None) -> Message:
    if message_class is None:
        try:
            known: type[Message] = symbol_database.Default().GetSymbol(packed.TypeName())
        except KeyError:
            return packed
        message_class = known  # type: ignore[assignment]
    assert message_class is not None
    message = message_class()
    if not packed.Unpack(message):
        raise TypeError(
            f"the result is a {packed.TypeName()}, not a {message_class.DESCRIPTOR.full_name}"
        )
    return message


class _Patience:
    """Until when to wait, and how long before the next try."""

    def __init__(self, timeout: float | None) -> None:
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._pause = _FIRST_PAUSE

    @property
    def left(self) -> float | None:
        """Seconds left; None: for ever. Raises TimeoutError when none are."""
        if self._deadline is None:
            return None
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the task has not ended in time")
        return left

    def next_pause(self, error: grpc.RpcError) -> float:
        """How long to wait after a broken watch. Raises what makes another try useless."""
        left = self.left
        failure: WorkerQueueError = from_rpc_error(error)
        if isinstance(failure, DeadlineError):
            raise TimeoutError("the task has not ended in time") from error
        if not isinstance(failure, UnavailableError):
            raise failure from error
        return self.pause(left)

    def pause(self, left: float | None) -> float:
        """How long to wait before the next try."""
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        return pause if left is None else min(pause, left)

    def heard(self) -> None:
        """The server answers: after a break the next try may come soon again."""
        self._pause = _FIRST_PAUSE


def wait_for_end(
    stub: AnyType, token: Callable[[], str] | None, task_id: str, timeout: float | None
) -> task_pb2.Task:
    """The ended task; errors as in ``TaskHandle.result``."""
    patience = _Patience(timeout)
    request = task_admin_pb2.WatchTaskRequest(task_id=task_id)
    while True:
        try:
            for change in stub.WatchTask(
                request, timeout=patience.left, metadata=_channel.call_metadata(token)
            ):
                patience.heard()
                if change.task.state in _ENDED:
                    ended: task_pb2.Task = change.task
                    return ended
            # Not said by the contract, but no reason to ask without a pause.
            time.sleep(patience.pause(patience.left))
        except grpc.RpcError as error:
            time.sleep(patience.next_pause(error))


async def wait_for_end_async(
    stub: AnyType,
    token: Callable[[], str] | None,
    task_id: str,
    timeout: float | None,  # noqa: ASYNC109
) -> task_pb2.Task:
    """The ended task; errors as in ``TaskHandle.result``."""
    patience = _Patience(timeout)
    request = task_admin_pb2.WatchTaskRequest(task_id=task_id)
    while True:
        call = stub.WatchTask(
            request, timeout=patience.left, metadata=_channel.call_metadata(token)
        )
        try:
            async for change in call:
                patience.heard()
                if change.task.state in _ENDED:
                    ended: task_pb2.Task = change.task
                    return ended
            await asyncio.sleep(patience.pause(patience.left))
        except grpc.RpcError as error:
            await asyncio.sleep(patience.next_pause(error))
        finally:
            call.cancel()
