"""Gathers concurrent work into batches, without a timer.

While one batch is being written, what arrives waits and becomes the next batch. So an idle server
writes at once and a busy one writes in large batches; the load itself sets the batch size.

Callers that were answered together come back together, but each through several rounds of the
event loop. A batch that began with the first of them would hold few, and cost as much as one with
all. So a batch that follows a shared one begins when a few rounds have brought nothing more. Rounds
are work that is there to be done, not time: with nothing to do they pass at once.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import monotonic, perf_counter
from typing import Generic, NamedTuple, TypeVar

from workerqueue_server.queue import bounds
from workerqueue_server.queue.errors import Overloaded, Unavailable
from workerqueue_server.store.errors import DatabaseUnavailable, StatementFailed
from workerqueue_server.telemetry import instruments

_log = logging.getLogger(__name__)

# So many rounds of the event loop without an arrival mean that whoever is at it has arrived. With
# fewer, batches of 64 callers stay small; more gains nothing.
_QUIET_ROUNDS = 4
# Arrivals without end must not keep those before them from being written.
_MAX_ROUNDS = 32

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Group(NamedTuple, Generic[Item, Result]):
    """Items submitted together."""

    items: Sequence[Item]
    future: asyncio.Future[Sequence[Result]]
    # Bytes that the items hold, as far as their size depends on the caller.
    size: int
    since: float


class Batcher(Generic[Item, Result]):
    """Runs ``flush`` on gathered items, one batch at a time.

    Items submitted together stay together and in order, and answers come in the order of items.
    Invariant: an item is in exactly one batch, so an answer speaks of one committed write.

    What waits is bounded by number, by bytes, and by the time that the oldest has waited: a
    database that falls behind is noticed before memory is. Refused is only what was not taken in,
    so nothing that was refused can have been written.
    """

    def __init__(
        self,
        name: str,
        flush: Callable[[list[Item]], Awaitable[Sequence[Result]]],
        *,
        max_batch: int,
        max_waiting: int,
        max_bytes: int = bounds.WAITING_BYTES,
        max_wait_seconds: float = math.inf,
        drop_abandoned: bool = False,
    ) -> None:
        """With ``drop_abandoned`` what nobody waits for any more is not written."""
        self._name = name
        self._flush = flush
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._max_bytes = max_bytes
        self._max_wait = max_wait_seconds
        self._drop_abandoned = drop_abandoned
        self._groups: deque[_Group[Item, Result]] = deque()
        self._waiting = 0
        self._bytes = 0
        self._arrived = asyncio.Event()
        # Not set while a batch is being written.
        self._at_rest = asyncio.Event()
        self._at_rest.set()

    def submit(self, items: Sequence[Item], size: int = 0) -> asyncio.Future[Sequence[Result]]:
        """The answers to the items, once their batch is committed. They hold ``size`` bytes.

        Raises Overloaded when too much waits already. The future fails with Unavailable or with
        what the flush raised.
        """
        now = monotonic()
        if self._groups:
            self._admit(len(items), size, now - self._groups[0].since)
        future: asyncio.Future[Sequence[Result]] = asyncio.get_running_loop().create_future()
        self._groups.append(_Group(items, future, size, now))
        self._waiting += len(items)
        self._bytes += size
        self._arrived.set()
        return future

    async def run(self) -> None:
        """Writes batches until cancelled; what still waits then fails with Unavailable."""
        # One caller alone is never made to wait.
        was_shared = False
        try:
            while True:
                await self._arrived.wait()
                if was_shared:
                    await self._gather()
                groups = self._take()
                if not groups:
                    self._arrived.clear()
                    continue
                was_shared = len(groups) > 1
                self._at_rest.clear()
                try:
                    await self._write(groups)
                finally:
                    self._at_rest.set()
        finally:
            self._fail(self._groups, Unavailable())

    @property
    def waiting(self) -> int:
        """How many items wait for the next batch."""
        return self._waiting

    async def settle(self) -> None:
        """Returns when the batch that is being written now, if any, has been answered."""
        await self._at_rest.wait()

    def _admit(self, count: int, size: int, waited: float) -> None:
        """Raises Overloaded if so much more may not wait."""
        if self._waiting + count > self._max_waiting or self._bytes + size > self._max_bytes:
            raise Overloaded(f"too much waits in {self._name}; try again")
        if waited > self._max_wait:
            raise Overloaded(
                f"{self._name}: the database is behind by more than {self._max_wait:g} s; try again"
            )

    async def _gather(self) -> None:
        """Returns when those who are submitting by now have done so."""
        quiet = 0
        for _ in range(_MAX_ROUNDS):
            before = self._waiting
            await asyncio.sleep(0)
            quiet = 0 if self._waiting > before else quiet + 1
            if quiet == _QUIET_ROUNDS or self._waiting >= self._max_batch:
                return

    def _take(self) -> list[_Group[Item, Result]]:
        groups: list[_Group[Item, Result]] = []
        count = size = 0
        while self._groups:
            group = self._groups[0]
            if groups and (
                count + len(group.items) > self._max_batch
                or size + group.size > bounds.WRITTEN_BYTES
            ):
                break
            self._groups.popleft()
            self._waiting -= len(group.items)
            self._bytes -= group.size
            if self._drop_abandoned and group.future.cancelled():
                # The caller has gone, or its deadline passed.
                continue
            count += len(group.items)
            size += group.size
            groups.append(group)
        return groups

    async def _write(self, groups: Sequence[_Group[Item, Result]]) -> None:
        items = [item for group in groups for item in group.items]
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
            for group in groups:
                end = start + len(group.items)
                if not group.future.done():
                    group.future.set_result(results[start:end])
                start = end

    @staticmethod
    def _fail(groups: Iterable[_Group[Item, Result]], error: BaseException) -> None:
        for group in groups:
            if not group.future.done():
                group.future.set_exception(error)
