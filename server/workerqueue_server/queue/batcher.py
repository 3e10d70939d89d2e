"""Gathers concurrent work into batches, without a timer.

While one batch is being written, what arrives waits and becomes the next batch. So an idle server
writes at once and a busy one writes in large batches; the load itself sets the batch size.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Generic, TypeVar

from workerqueue_server.queue.errors import Overloaded, Unavailable
from workerqueue_server.store.errors import DatabaseUnavailable, StatementFailed
from workerqueue_server.telemetry import instruments

_log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Runs ``flush`` on gathered items, one batch at a time.

    Items submitted together stay together and in order, and answers come in the order of items.
    Invariant: an item is in exactly one batch, so an answer speaks of one committed write.
    """

    def __init__(
        self,
        name: str,
        flush: Callable[[list[Item]], Awaitable[Sequence[Result]]],
        *,
        max_batch: int,
        max_waiting: int,
    ) -> None:
        self._name = name
        self._flush = flush
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._groups: deque[tuple[Sequence[Item], asyncio.Future[Sequence[Result]]]] = deque()
        self._waiting = 0
        self._arrived = asyncio.Event()
        # Not set while a batch is being written.
        self._at_rest = asyncio.Event()
        self._at_rest.set()

    def submit(self, items: Sequence[Item]) -> asyncio.Future[Sequence[Result]]:
        """The answers to the items, once their batch is committed.

        Raises Overloaded when too much waits already. The future fails with Unavailable or with
        what the flush raised.
        """
        if self._waiting + len(items) > self._max_waiting and self._waiting:
            raise Overloaded(f"too many items wait in {self._name}; try again")
        future: asyncio.Future[Sequence[Result]] = asyncio.get_running_loop().create_future()
        self._groups.append((items, future))
        self._waiting += len(items)
        self._arrived.set()
        return future

    async def run(self) -> None:
        """Writes batches until cancelled; what still waits then fails with Unavailable."""
        try:
            while True:
                await self._arrived.wait()
                groups = self._take()
                if not groups:
                    self._arrived.clear()
                    continue
                self._at_rest.clear()
                try:
                    await self._write(groups)
                finally:
                    self._at_rest.set()
        finally:
            for _, future in self._groups:
                if not future.done():
                    future.set_exception(Unavailable())

    @property
    def waiting(self) -> int:
        """How many items wait for the next batch."""
        return self._waiting

    async def settle(self) -> None:
        """Returns when the batch that is being written now, if any, has been answered."""
        await self._at_rest.wait()

    def _take(self) -> list[tuple[Sequence[Item], asyncio.Future[Sequence[Result]]]]:
        groups: list[tuple[Sequence[Item], asyncio.Future[Sequence[Result]]]] = []
        size = 0
        while self._groups:
            items, _ = self._groups[0]
            if groups and size + len(items) > self._max_batch:
                break
            size += len(items)
            groups.append(self._groups.popleft())
        self._waiting -= size
        return groups

    async def _write(
        self, groups: Sequence[tuple[Sequence[Item], asyncio.Future[Sequence[Result]]]]
    ) -> None:
        items = [item for group, _ in groups for item in group]
        started = perf_counter()
        try:
            results = await self._flush(items)
        except DatabaseUnavailable as error:
            _log.warning("%s: %d items refused: %s", self._name, len(items), error)
            instruments.BATCH_FAILED.add(1, self._name)
            self._fail(groups, Unavailable())
        except StatementFailed as error:
            if len(groups) == 1:
                instruments.BATCH_FAILED.add(1, self._name)
                _log.exception("%s: a batch of %d failed", self._name, len(items))
                self._fail(groups, error)
                return
            # One caller's data may be at fault; the others must not suffer for it.
            for group in groups:
                await self._write([group])
        except BaseException as error:
            self._fail(
                groups, Unavailable() if isinstance(error, asyncio.CancelledError) else error
            )
            if not isinstance(error, Exception):
                raise
            _log.exception("%s: a batch of %d failed", self._name, len(items))
        else:
            instruments.BATCH_SIZE.record(len(items), self._name)
            instruments.BATCH_DURATION.record(perf_counter() - started, self._name)
            start = 0
            for members, future in groups:
                if not future.done():
                    future.set_result(results[start : start + len(members)])
                start += len(members)

    @staticmethod
    def _fail(
        groups: Sequence[tuple[Sequence[Item], asyncio.Future[Sequence[Result]]]],
        error: BaseException,
    ) -> None:
        for _, future in groups:
            if not future.done():
                future.set_exception(error)
