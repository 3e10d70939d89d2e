"""Gathers the concurrent ``enqueue`` calls of a process's threads; see ``_gathering``."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

import grpc

from workerqueue import _gathering
from workerqueue._gathering import Stored
from workerqueue._status import from_rpc_error
from workerqueue.v1.worker_queue_pb2 import (
    EnqueueBatchRequest,
    EnqueueBatchResponse,
    EnqueueOutcome,
    EnqueueRequest,
    EnqueueResponse,
)


class Calls(Protocol):
    """The calls to the server. Each raises grpc.RpcError."""

    def enqueue(self, request: EnqueueRequest, timeout: float) -> EnqueueResponse:
        """Enqueue."""

    def start_enqueue(self, request: EnqueueRequest, timeout: float) -> StartedCall:
        """Enqueue, without waiting for its answer."""

    def enqueue_batch(self, request: EnqueueBatchRequest, timeout: float) -> EnqueueBatchResponse:
        """EnqueueBatch."""


class StartedCall(Protocol):
    """An Enqueue that was sent."""

    def result(self) -> EnqueueResponse:
        """Waits for the answer. Raises grpc.RpcError."""


class _Item(_gathering.Item):
    __slots__ = ("_gate", "error", "given_up", "stored", "woken")

    def __init__(self, request: EnqueueRequest, timeout: float) -> None:
        super().__init__(request, timeout)
        self.stored: Stored | None = None
        self.error: BaseException | None = None
        # Its caller was interrupted while it waited.
        self.given_up = False
        self.woken = False
        self._gate = threading.Lock()
        self._gate.acquire()

    @property
    def is_answered(self) -> bool:
        return self.stored is not None or self.error is not None

    @property
    def is_open(self) -> bool:
        return not (self.is_answered or self.given_up)

    def succeed(self, stored: Stored) -> None:
        if not self.is_answered:
            self.stored = stored
            self.wake()

    def fail(self, error: BaseException) -> None:
        if not self.is_answered:
            self.error = error
            self.wake()

    def wait(self) -> None:
        """Returns when the call is answered, or when it is its turn to send what waits."""
        self._gate.acquire()

    def wake(self) -> None:
        """Ends the wait. Called by the thread that has the turn."""
        if not self.woken:
            self.woken = True
            self._gate.release()

    def answer(self) -> Stored:
        """What the caller is told, as a result or as an exception."""
        if self.error is not None:
            raise self.error
        assert self.stored is not None
        return self.stored


class Gatherer:
    """Sends one call at a time, alone or with all that came meanwhile.

    There is no thread for it: the caller whose turn it is sends what waits, its own call first,
    and then passes the turn on to the oldest that waits.

    Invariant: while ``_busy``, exactly one caller has the turn, and it passes the turn on or ends
    ``_busy`` whatever happens to it; so nothing waits for ever.

    Args:
        calls: The calls to the server.
        timeout: Seconds one call may take.
    """

    def __init__(self, calls: Calls, timeout: float) -> None:
        self._calls = calls
        self._timeout = timeout
        self._lock = threading.Lock()
        self._line = _gathering.Line[_Item]()
        self._busy = False

    def enqueue(self, request: EnqueueRequest) -> Stored:
        """Stores one task, together with others if a call is under way."""
        item = _Item(request, self._timeout)
        with self._lock:
            waits, self._busy = self._busy, True
            self._line.add(item)
        if waits:
            try:
                item.wait()
            except BaseException:
                self._give_up(item)
                raise
        if not item.is_answered:
            try:
                self._take_turn(item)
            finally:
                self._pass_on()
        return item.answer()

    def enqueue_alone(self, request: EnqueueRequest) -> Stored:
        """Stores one task with a call of its own, whatever else is under way."""
        try:
            return _gathering.read_single(self._calls.enqueue(request, self._timeout))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def _take_turn(self, own: _Item) -> None:
        with self._lock:
            items = self._line.take()
        try:
            self._send(items)
        except Exception as error:  # noqa: BLE001 - such as one of the caller's token function
            for item in items:
                item.fail(error)
        except BaseException:
            # This thread alone was interrupted: the others' calls are sent again.
            own.given_up = True
            with self._lock:
                self._line.put_back(item for item in items if item.is_open)
            raise

    def _send(self, items: list[_Item]) -> None:
        try:
            if len(items) == 1:
                response = self._calls.enqueue(items[0].request, items[0].seconds_left)
                items[0].succeed(_gathering.read_single(response))
                return
            answer = self._calls.enqueue_batch(
                _gathering.batch_request(items), items[0].seconds_left
            )
        except grpc.RpcError as error:
            again, singly = _gathering.settle_failure(items, error)
            with self._lock:
                self._line.put_back(again)
            self._send_singly([(item, None) for item in singly])
        else:
            self._send_singly(_gathering.settle(items, answer))

    def _send_singly(self, items: Sequence[tuple[_Item, EnqueueOutcome | None]]) -> None:
        """Stores the tasks; those with an outcome are stored, and only the task is asked for."""
        started = [
            (item, outcome, self._calls.start_enqueue(item.request, item.seconds_left))
            for item, outcome in items
        ]
        for item, outcome, call in started:
            try:
                stored = _gathering.read_single(call.result())
            except grpc.RpcError as error:
                _gathering.fail_all([item], error)
            else:
                item.succeed(stored if outcome is None else stored._replace(outcome=outcome))

    def _give_up(self, item: _Item) -> None:
        with self._lock:
            item.given_up = True
            had_turn = item.woken and not item.is_answered
        if had_turn:
            self._pass_on()

    def _pass_on(self) -> None:
        with self._lock:
            following = self._line.first()
            if following is None:
                self._busy = False
            else:
                following.wake()
