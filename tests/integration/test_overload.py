"""A database that falls behind: producers hear of it, memory stays, workers keep their leases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import grpc
import psutil

from tests.servers import ServerProcess
from tests.sql import Inspector
from tests.toolkit import DEADLINE_SECONDS, Api, Refusal, eventually, refusal, request, seconds
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import worker_queue_pb2
from workerqueue_server.queue import bounds

_PAYLOAD = 1_900_000
# The server may take in some 18 of these; the others are refused.
_OFFERED = 240
_CALLERS = 24
_FIRST_REFUSED = 60
# The bounds mean memory: what a call holds twice over is counted twice. A call that arrives, to be
# refused, is in memory as well, in gRPC's buffers and in ours; how often, is up to timing
# (180 to 320 MB were seen in all).
_GROWTH = 3 * (bounds.WAITING_BYTES + bounds.WRITTEN_BYTES) + 3 * _CALLERS * _PAYLOAD
# What is refused later must leave nothing behind.
_LATER_GROWTH = (_OFFERED - _FIRST_REFUSED - _CALLERS) * _PAYLOAD


class Flood:
    """Callers that enqueue large tasks, one after the other, and do not wait when refused."""

    def __init__(self, api: Api, queue: str) -> None:
        self._api = api
        half = "x" * (_PAYLOAD // 2)
        email = tasks_pb2.ScheduleEmail(to="a@example.com", subject="s", html=half, text=half)
        self._task = request(email, queue=queue)
        self._turns: Iterator[int] = iter(range(_OFFERED))
        self.begun = 0
        self.stored: list[str] = []
        self.refused: list[Refusal] = []

    async def run(self) -> None:
        """Returns when all that was offered is answered."""
        await asyncio.gather(*(self._call() for _ in range(_CALLERS)))

    async def _call(self) -> None:
        for _ in self._turns:
            self.begun += 1
            try:
                answer: worker_queue_pb2.EnqueueResponse = await self._api.stub.Enqueue(
                    self._task, timeout=5 * DEADLINE_SECONDS
                )
            except grpc.aio.AioRpcError as error:
                self.refused.append(refusal(error))
            else:
                self.stored.append(answer.task.task_id)


@asynccontextmanager
async def _stuck_inserts(sql: Inspector) -> AsyncIterator[None]:
    """While the block runs, statements that store tasks wait; others do not."""
    await sql.connection.execute(
        "create function public.wait_for_test() returns trigger language plpgsql "
        "set lock_timeout = 0 as "
        "$$ begin perform pg_advisory_xact_lock_shared(4711); return null; end $$"
    )
    await sql.connection.execute("select pg_advisory_lock(4711)")
    try:
        await sql.connection.execute(
            "create trigger wait_for_test before insert on workerqueue.tasks "
            "for each statement execute function public.wait_for_test()"
        )
        yield
    finally:
        await sql.connection.execute("select pg_advisory_unlock(4711)")


async def test_a_flood_that_the_database_cannot_take_is_refused_before_memory_grows(
    api: Api, sql: Inspector, server: ServerProcess, queue: str
) -> None:
    for _ in range(2):
        await api.enqueue(queue="calm", lease_duration=seconds(300), timeout=seconds(900))
    kept, finished = await api.take("calm")
    process = psutil.Process(server.pid)
    before = process.memory_info().rss
    flood = Flood(api, queue)
    ends: list[int] = []
    sizes: list[int] = []
    async with _stuck_inserts(sql):
        running = asyncio.create_task(flood.run())

        async def all_was_offered() -> bool:
            beat = await api.heartbeat(kept.lease_token)
            ends.append(beat.lease_expires_at.ToNanoseconds())
            # After the beat, so that the last look at the flood finds a size, too.
            if len(flood.refused) >= _FIRST_REFUSED:
                sizes.append(process.memory_info().rss)
            return flood.begun == _OFFERED and len(flood.refused) >= _OFFERED - _CALLERS

        await eventually(all_was_offered, "the server refuses", 3 * DEADLINE_SECONDS)
        # Not one write was committed, and what workers say has lanes of its own.
        assert flood.stored == []
        assert len(ends) > 1
        assert ends == sorted(set(ends))
        await api.ack(finished.lease_token)
    await running
    overloaded = [problem for problem in flood.refused if problem.reason == "OVERLOADED"]
    # On a slow machine a stuck write may meet its own time-out, which is UNAVAILABLE.
    assert len(overloaded) > _OFFERED // 2
    assert {problem.code for problem in overloaded} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert all(problem.retry_seconds for problem in flood.refused)
    assert max(sizes) - before < _GROWTH
    assert sizes[-1] - sizes[0] < _LATER_GROWTH
    # What was accepted is there, and what was refused is not.
    rows = await sql.rows(
        "select id::text from workerqueue.tasks join workerqueue.lanes using (lane_id)"
        " where queue = %s",
        queue,
    )
    assert len(rows) > 0
    assert {row["id"] for row in rows} == set(flood.stored)
    await api.ack(kept.lease_token)
    await api.enqueue(queue=queue)
