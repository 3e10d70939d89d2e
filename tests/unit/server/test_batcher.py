"""Concurrent work shares one write, and a failing share harms nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from workerqueue_server.queue import bounds
from workerqueue_server.queue.batcher import Batcher
from workerqueue_server.queue.errors import Overloaded, Unavailable
from workerqueue_server.store.errors import DatabaseUnavailable, StatementFailed


class Writer:
    """A store that writes when it is told to."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        if not held:
            self.gate.set()
        self.entered = asyncio.Event()
        self.failures: dict[int, Exception] = {}

    async def __call__(self, items: list[int]) -> Sequence[int]:
        self.batches.append(list(items))
        self.entered.set()
        await self.gate.wait()
        for item in items:
            if item in self.failures:
                raise self.failures[item]
        return [item * 10 for item in items]


@asynccontextmanager
async def running(
    writer: Writer, *, max_batch: int = 100, max_waiting: int = 1_000, **more: Any
) -> AsyncIterator[Batcher[int, int]]:
    batcher = Batcher[int, int](
        "test", writer, max_batch=max_batch, max_waiting=max_waiting, **more
    )
    loop = asyncio.create_task(batcher.run())
    try:
        yield batcher
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)


async def test_an_idle_batcher_writes_at_once() -> None:
    writer = Writer()
    async with running(writer) as batcher:
        assert await batcher.submit([1, 2]) == [10, 20]
        assert await batcher.submit([3]) == [30]
    assert writer.batches == [[1, 2], [3]]


async def test_what_arrives_during_a_write_becomes_the_next_batch() -> None:
    writer = Writer(held=True)
    async with running(writer) as batcher:
        first = batcher.submit([1])
        await writer.entered.wait()
        others = [batcher.submit([n, n + 1]) for n in range(2, 10, 2)]
        writer.gate.set()
        assert await first == [10]
        assert [await other for other in others] == [[n * 10, n * 10 + 10] for n in range(2, 10, 2)]
    assert writer.batches == [[1], [2, 3, 4, 5, 6, 7, 8, 9]]


async def rounds(count: int) -> None:
    """So many rounds of the event loop."""
    for _ in range(count):
        await asyncio.sleep(0)


async def come_back_one_by_one(batcher: Batcher[int, int], count: int) -> None:
    """Callers that were answered together submit again, each a round later than the last."""

    async def call(place: int) -> None:
        await batcher.submit([place])
        await rounds(place)
        await batcher.submit([place])

    await asyncio.gather(*(call(place) for place in range(count)))


async def test_callers_that_were_answered_together_share_the_next_write() -> None:
    writer = Writer()
    async with running(writer) as batcher:
        await come_back_one_by_one(batcher, 10)
    assert writer.batches == [list(range(10)), list(range(10))]


async def test_arrivals_without_end_do_not_keep_the_first_from_being_written() -> None:
    writer = Writer()
    async with running(writer) as batcher:
        await come_back_one_by_one(batcher, 100)
    first, second, *others = writer.batches
    assert first == list(range(100))
    assert 1 < len(second) < 100
    assert others


async def test_one_caller_alone_never_waits_for_others() -> None:
    writer = Writer()
    async with running(writer) as batcher:
        for number in range(3):
            answer = batcher.submit([number])
            # One round to begin, one for the write, whose result the next one sees.
            await rounds(3)
            assert answer.done()


async def test_a_batch_is_bounded_but_what_came_together_stays_together() -> None:
    writer = Writer(held=True)
    async with running(writer, max_batch=4) as batcher:
        first = batcher.submit([0])
        await writer.entered.wait()
        futures = [batcher.submit(items) for items in ([1, 2, 3], [4, 5], [6], [7, 8, 9, 10, 11])]
        writer.gate.set()
        await asyncio.gather(first, *futures)
    assert writer.batches == [[0], [1, 2, 3], [4, 5, 6], [7, 8, 9, 10, 11]]


async def test_a_refused_statement_is_repeated_group_by_group() -> None:
    writer = Writer(held=True)
    writer.failures[3] = StatementFailed("bad data")
    async with running(writer) as batcher:
        first = batcher.submit([1])
        await writer.entered.wait()
        good, bad, fine = batcher.submit([2]), batcher.submit([3, 4]), batcher.submit([5])
        writer.gate.set()
        assert await first == [10]
        assert (await good, await fine) == ([20], [50])
        with pytest.raises(StatementFailed):
            await bad
    assert writer.batches == [[1], [2, 3, 4, 5], [2], [3, 4], [5]]


async def test_a_silent_database_refuses_the_batch_and_the_next_one_may_succeed() -> None:
    writer = Writer()
    writer.failures[1] = DatabaseUnavailable("gone")
    async with running(writer) as batcher:
        with pytest.raises(Unavailable):
            await batcher.submit([1])
        assert await batcher.submit([2]) == [20]


async def test_a_fault_of_ours_reaches_its_callers_and_the_loop_goes_on() -> None:
    writer = Writer()
    writer.failures[1] = RuntimeError("a bug")
    async with running(writer) as batcher:
        with pytest.raises(RuntimeError, match="a bug"):
            await batcher.submit([1])
        assert await batcher.submit([2]) == [20]


async def test_too_much_that_waits_is_refused_but_one_large_group_is_not() -> None:
    writer = Writer(held=True)
    async with running(writer, max_waiting=5) as batcher:
        first = batcher.submit(list(range(50)))
        await writer.entered.wait()
        waiting = batcher.submit([1, 2, 3, 4])
        with pytest.raises(Overloaded):
            batcher.submit([5, 6])
        fits = batcher.submit([7])
        writer.gate.set()
        await asyncio.gather(first, waiting, fits)
        assert await batcher.submit([8]) == [80]


async def test_a_caller_that_gave_up_harms_nobody() -> None:
    writer = Writer(held=True)
    async with running(writer) as batcher:
        first = batcher.submit([1])
        await writer.entered.wait()
        gone, stays = batcher.submit([2]), batcher.submit([3])
        gone.cancel()
        writer.gate.set()
        assert await first == [10]
        assert await stays == [30]


async def test_what_still_waits_at_the_end_is_refused() -> None:
    writer = Writer(held=True)
    async with running(writer) as batcher:
        writing = batcher.submit([1])
        await writer.entered.wait()
        waiting = batcher.submit([2])
    for future in (writing, waiting):
        with pytest.raises(Unavailable):
            await future


async def test_settling_waits_for_the_write_under_way_only() -> None:
    writer = Writer(held=True)
    async with running(writer) as batcher:
        await batcher.settle()
        future = batcher.submit([1])
        await writer.entered.wait()
        settled = asyncio.create_task(batcher.settle())
        await asyncio.sleep(0)
        assert not settled.done()
        writer.gate.set()
        await asyncio.wait_for(settled, 5)
        assert await future == [10]


async def test_what_waits_is_bounded_by_bytes_too() -> None:
    writer = Writer(held=True)
    async with running(writer, max_bytes=100) as batcher:
        first = batcher.submit([1], 1_000)
        await writer.entered.wait()
        waiting = [batcher.submit([2], 60), batcher.submit([3], 40)]
        with pytest.raises(Overloaded):
            batcher.submit([4], 1)
        writer.gate.set()
        await asyncio.gather(first, *waiting)
        assert await batcher.submit([4], 1) == [40]


async def test_nothing_more_is_taken_once_the_oldest_has_waited_too_long() -> None:
    writer = Writer(held=True)
    async with running(writer, max_wait_seconds=0.0) as batcher:
        first = batcher.submit([1])
        await writer.entered.wait()
        # Nobody waits yet; this one does from now on.
        second = batcher.submit([2])
        with pytest.raises(Overloaded) as refused:
            batcher.submit([3])
        assert "behind" in refused.value.message
        writer.gate.set()
        assert [await first, await second] == [[10], [20]]
    # What was refused was not written.
    assert writer.batches == [[1], [2]]


@pytest.mark.parametrize("drop_abandoned", [True, False])
async def test_what_nobody_waits_for_is_written_only_if_it_should_be(drop_abandoned: bool) -> None:
    writer = Writer(held=True)
    async with running(writer, drop_abandoned=drop_abandoned) as batcher:
        first = batcher.submit([1])
        await writer.entered.wait()
        gone, stays = batcher.submit([2]), batcher.submit([3])
        gone.cancel()
        # Too late: it is being written.
        first.cancel()
        writer.gate.set()
        assert await stays == [30]
    assert writer.batches == [[1], [3] if drop_abandoned else [2, 3]]


async def test_one_write_takes_so_many_bytes_and_at_least_one_group() -> None:
    writer = Writer(held=True)
    async with running(writer) as batcher:
        first = batcher.submit([1])
        await writer.entered.wait()
        half = bounds.WRITTEN_BYTES // 2
        sizes = [half, half, 1, bounds.WRITTEN_BYTES + 1, 1]
        rest = [batcher.submit([n + 2], size) for n, size in enumerate(sizes)]
        writer.gate.set()
        await asyncio.gather(first, *rest)
    assert writer.batches == [[1], [2, 3], [4], [5], [6]]
