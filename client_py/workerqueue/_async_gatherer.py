"""Gathers the concurrent ``enqueue`` calls of one event loop; see ``_gathering``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

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


class _Item(_gathering.Item):
    __slots__ = ("future",)

    def __init__(self, request: EnqueueRequest, timeout: float) -> None:
        super().__init__(request, timeout)
        self.future: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()

    @property
    def is_open(self) -> bool:
        return not self.future.done()

    def succeed(self, stored: Stored) -> None:
        if not self.future.done():
            self.future.set_result(stored)

    def fail(self, error: BaseException) -> None:
        if self.future.done():
            return
        if isinstance(error, asyncio.CancelledError):
            self.future.cancel()
        else:
            self.future.set_exception(error)


class AsyncGatherer:
    """Sends one call at a time, alone or with all that came meanwhile.

    Invariant: while ``_busy``, a call is under way whose end sends what waits; so nothing waits
    for ever.

    Args:
        single: Sends an Enqueue that may take so many seconds.
        batch: Sends an EnqueueBatch that may take so many seconds.
        timeout: Seconds one call may take.
    """

    def __init__(
        self,
        single: Callable[[EnqueueRequest, float], Awaitable[EnqueueResponse]],
        batch: Callable[[EnqueueBatchRequest, float], Awaitable[EnqueueBatchResponse]],
        timeout: float,
    ) -> None:
        self._single = single
        self._batch = batch
        self._timeout = timeout
        self._line = _gathering.Line[_Item]()
        self._busy = False
        # The loop itself does not keep a task alive.
        self._sender: asyncio.Task[None] | None = None

    async def enqueue(self, request: EnqueueRequest) -> Stored:
        """Stores one task, together with others if a call is under way."""
        if self._busy:
            item = _Item(request, self._timeout)
            self._line.add(item)
            return await item.future
        self._busy = True
        try:
            return await self.enqueue_alone(request)
        finally:
            if self._line.first() is None:
                self._busy = False
            else:
                self._sender = asyncio.create_task(self._send_what_waits())

    async def enqueue_alone(self, request: EnqueueRequest) -> Stored:
        """Stores one task with a call of its own, whatever else is under way."""
        try:
            return _gathering.read_single(await self._single(request, self._timeout))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    async def _send_what_waits(self) -> None:
        # A task of its own, so that no caller's cancellation reaches another one's call.
        try:
            while items := self._line.take():
                await self._send(items)
                # Whoever was answered just now may call again before the next batch is taken.
                await asyncio.sleep(0)
        except BaseException as error:
            while items := self._line.take():
                for item in items:
                    item.fail(error)
            raise
        finally:
            self._busy = False

    async def _send(self, items: list[_Item]) -> None:
        if len(items) == 1:
            await self._send_single(items[0])
            return
        request = _gathering.batch_request(items)
        try:
            response = await self._batch(request, items[0].seconds_left)
        except grpc.RpcError as error:
            again, singly = _gathering.settle_failure(items, error)
            self._line.put_back(again)
            await asyncio.gather(*map(self._send_single, singly))
        except BaseException as error:
            for item in items:
                item.fail(error)
            # The client was closed, or its loop ends: then for those who wait, too.
            if not isinstance(error, Exception):
                raise
        else:
            untold = _gathering.settle(items, response)
            if untold:
                await asyncio.gather(*(self._send_single(*item) for item in untold))

    async def _send_single(self, item: _Item, outcome: EnqueueOutcome | None = None) -> None:
        """Stores one task; with an outcome it is stored, and only the task is asked for."""
        try:
            response = await self._single(item.request, item.seconds_left)
        except grpc.RpcError as error:
            _gathering.fail_all([item], error)
        except BaseException as error:
            item.fail(error)
            if not isinstance(error, Exception):
                raise
        else:
            stored = _gathering.read_single(response)
            item.succeed(stored if outcome is None else stored._replace(outcome=outcome))
