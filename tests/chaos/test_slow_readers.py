"""Workers that read more slowly than they are sent, or not at all, cost few attempts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.chaos.fleet import Fleet
from tests.chaos.harness.processes import Actor
from tests.servers import ServerProcess
from tests.sql import Inspector
from tests.toolkit import AT_ONCE, Api, eventually, request, seconds
from workerqueue.v1 import lease_pb2

WINDOW = 20
LEASE_SECONDS = 2.0
# So a whole window of frames takes longer than a lease to read.
READ_PAUSE_SECONDS = 0.3

pytestmark = pytest.mark.slow


async def lost_by_attempt(sql: Inspector, worker: str) -> Counter[int]:
    """How many leases of the worker ran out, by the number of their attempt."""
    query = "select attempt from workerqueue.attempts where worker_id = %s and outcome = 'lost'"
    return Counter(row["attempt"] for row in await sql.rows(query, worker))


async def test_a_slow_reader_loses_little_more_than_its_first_window(
    api: Api, group: list[ServerProcess], sql: Inspector, tmp_path: Path
) -> None:
    slow = Actor(
        "worker",
        {
            "folder": str(tmp_path),
            "name": "slow",
            "addresses": [group[1].address],
            "queues": ["q"],
            "seed": 1,
            "window": WINDOW,
            "work_seconds": (0.001, 0.001),
            "lease_seconds": LEASE_SECONDS,
            "read_pause_seconds": READ_PAUSE_SECONDS,
            "only_acks": True,
        },
        tmp_path,
    )
    tasks = [
        (await api.enqueue(queue="q", retry=AT_ONCE, max_attempts=100)).task_id for _ in range(60)
    ]
    slow.launch()
    try:

        async def done() -> bool:
            return await sql.states(tasks) == {"succeeded": len(tasks)}

        await eventually(done, "it has done them all", 120)
    finally:
        slow.kill()
    lost = await lost_by_attempt(sql, "slow")
    assert lost.total() <= 2 * WINDOW


async def test_a_frozen_worker_does_not_get_back_what_it_lost(
    api: Api, group: list[ServerProcess], sql: Inspector, tmp_path: Path
) -> None:
    """Its connection still stands, at the very server that gives the tasks on."""
    with Fleet(tmp_path) as fleet:
        (frozen,) = fleet.start(
            [group[0].address], ["q"], window=WINDOW, lease_seconds=1, work_seconds=(600, 600)
        )
        tasks = [
            (await api.enqueue(queue="q", retry=AT_ONCE, max_attempts=2)).task_id
            for _ in range(WINDOW)
        ]
        await eventually(lambda: len(frozen.events("start")) == WINDOW, "it has them all")
        frozen.freeze()
        (quick,) = fleet.start([group[0].address], ["q"], window=5)

        async def done() -> bool:
            return await sql.states(tasks) == {"succeeded": WINDOW}

        await eventually(done, "the other has done them in their second attempts")
        frozen.thaw()
        quick.kill()
        more = await api.enqueue(queue="q", retry=AT_ONCE, max_attempts=100)
        await eventually(
            lambda: more.task_id in {event.task for event in frozen.events("start")},
            "the worker that is back gets tasks again",
        )


async def test_a_worker_that_never_reads_is_sent_one_at_a_time(api: Api, sql: Inspector) -> None:
    await api.ids([request(queue="q", retry=AT_ONCE, max_attempts=1_000)] * WINDOW)
    call = api.stub.Lease()
    subscribe = lease_pb2.Subscribe(
        worker_id="deaf", queues=["q"], max_in_flight=WINDOW, lease_duration=seconds(1)
    )
    await call.write(lease_pb2.LeaseRequest(subscribe=subscribe))
    held: list[int] = []

    async def leased() -> int:
        query = "select count(*) from workerqueue.tasks where state = 'leased'"
        held.append(await sql.value(query))
        return held[-1]

    async def lost() -> bool:
        return (await lost_by_attempt(sql, "deaf"))[1] == WINDOW

    await eventually(lost, "what it was sent first is lost")
    held.clear()
    for _ in range(2):
        await eventually(leased, "it is tried again")
        await eventually(lambda: _is_zero(leased), "that is lost, too")
    assert max(held) == 1
    call.cancel()


async def _is_zero(count: Callable[[], Awaitable[int]]) -> bool:
    return await count() == 0
