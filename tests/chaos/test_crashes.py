"""Servers and workers die in the middle of the work; nothing is lost and nothing is done twice."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from psycopg import AsyncConnection

from tests.chaos.fleet import Fleet
from tests.postgres import Database
from tests.servers import ServerProcess, servers
from tests.sql import Inspector
from tests.toolkit import connected, eventually, request
from workerqueue.v1 import worker_queue_pb2

TASKS, KEYS, LIMIT = 2_000, 50, 3
WIDE, NARROW = "wide", "narrow"

pytestmark = pytest.mark.slow


class Scene:
    """Two servers, four workers, 2,000 tasks over 50 keys, and a queue limited to three."""

    def __init__(self, group: list[ServerProcess], fleet: Fleet, sql: Inspector) -> None:
        self.servers = group
        self.fleet = fleet
        self.sql = sql
        self.ids = [str(uuid.uuid4()) for _ in range(TASKS)]
        self.most_leased = 0

    @property
    def addresses(self) -> list[str]:
        return [server.address for server in self.servers]

    async def produce(self, max_attempts: int = 10) -> None:
        """Enqueues: half in batches, half one by one while the workers are at it.

        A call that fails is repeated on another server, with the same ids.
        """
        pick = random.Random(7)
        made = [
            request(
                task_id=task_id,
                queue=NARROW if n % 5 == 0 else WIDE,
                concurrency_key=f"key-{pick.randrange(KEYS)}",
                priority=pick.choice((0, 0, 5)),
                max_attempts=max_attempts,
            )
            for n, task_id in enumerate(self.ids)
        ]
        for start in range(0, TASKS // 2, 250):
            await self._send(made[start : start + 250])
        for start in range(TASKS // 2, TASKS, 20):
            await asyncio.gather(*(self._send([item]) for item in made[start : start + 20]))

    async def _send(self, items: list[worker_queue_pb2.EnqueueRequest]) -> None:
        turn = random.randrange(2)
        while True:
            turn += 1
            try:
                async with connected(self.addresses[turn % 2]) as api:
                    results = await api.batch(items)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)
                continue
            assert not any(result.HasField("error") for result in results)
            return

    async def watch_limit(self) -> None:
        """Looks at the limited queue as often as it can."""
        while True:
            leased = await self.sql.value(
                "select count(*)::integer from workerqueue.tasks t"
                "  join workerqueue.lanes l using (lane_id)"
                " where t.state = 'leased' and l.queue = %s",
                NARROW,
            )
            self.most_leased = max(self.most_leased, leased)
            await asyncio.sleep(0.005)

    async def progress(self, share: float) -> None:
        """Waits until so much of the work is done."""

        async def far_enough() -> bool:
            done = await self.sql.value("select count(*)::integer from workerqueue.history")
            return bool(done >= share * TASKS)

        await eventually(far_enough, f"{share:.0%} of the tasks are done", 180)

    async def check(self) -> None:
        """What must hold whatever happened."""
        assert await self.sql.states(self.ids) == {"succeeded": TASKS}
        assert await self.sql.value("select count(*)::integer from workerqueue.history") == TASKS
        assert await self.sql.value("select count(*)::integer from workerqueue.tasks") == 0
        by_key = self.fleet.most_at_once_by_key()
        assert len(by_key) == KEYS
        assert {key: most for key, most in by_key.items() if most > 1} == {}
        assert self.fleet.most_at_once(NARROW) <= LIMIT
        assert 1 <= self.most_leased <= LIMIT
        finished = self.fleet.finished()
        assert [task for task, times in finished.items() if times > 1] == []
        assert [worker.log() for worker in self.fleet.workers if "Error" in worker.log()] == []


async def play(
    database: Database,
    folder: Path,
    trouble: Callable[[Scene], Awaitable[None]],
    *,
    max_attempts: int = 10,
    lease_seconds: float = 60.0,
) -> Scene:
    with servers(database.dsn, 2) as group, Fleet(folder) as fleet:
        async with await AsyncConnection.connect(database.dsn, autocommit=True) as connection:
            scene = Scene(group, fleet, Inspector(connection))
            await scene.sql.limit_queue(NARROW, total=LIMIT, per_worker=None)
            fleet.start(scene.addresses, [WIDE, NARROW], count=4, lease_seconds=lease_seconds)
            watching = asyncio.create_task(scene.watch_limit())
            try:
                await asyncio.gather(scene.produce(max_attempts), trouble(scene))
                await scene.progress(1.0)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
            await scene.check()
        return scene


async def test_keys_and_limits_hold_over_servers_and_workers(
    database: Database, tmp_path: Path
) -> None:
    async def no_trouble(_: Scene) -> None:
        pass

    scene = await play(database, tmp_path, no_trouble, max_attempts=1)
    assert len(scene.fleet.finished()) == TASKS
    assert len(scene.fleet.runs()) == TASKS


async def test_a_killed_worker_and_a_killed_server_lose_nothing(
    database: Database, tmp_path: Path
) -> None:
    async def kill(scene: Scene) -> None:
        await scene.progress(0.15)
        scene.fleet.workers[0].kill()
        await scene.progress(0.35)
        scene.servers[0].kill()
        await scene.progress(0.6)
        # A replacement joins while the work goes on.
        scene.servers[0].start()
        scene.fleet.start(scene.addresses, [WIDE, NARROW], lease_seconds=10)

    # Long enough for a worker on a busy machine, short enough to wait for those of the killed one.
    scene = await play(database, tmp_path, kill, lease_seconds=10)
    # What a worker was told to be finished by it, no other worker began later.
    finished_at = {event.task: event.at for event in scene.fleet.events("acked")}
    again = [e for e in scene.fleet.events("start") if e.at > finished_at.get(e.task, e.at)]
    assert again == []


async def test_servers_restart_one_after_the_other_and_no_attempt_is_lost(
    database: Database, tmp_path: Path
) -> None:
    """With one attempt each, a task that a restart gave up on would be dead."""

    async def restart(scene: Scene) -> None:
        for n, share in ((0, 0.2), (1, 0.5)):
            await scene.progress(share)
            assert await asyncio.to_thread(scene.servers[n].stop) == 0
            await asyncio.to_thread(scene.servers[n].start)

    scene = await play(database, tmp_path, restart, max_attempts=1)
    assert len(scene.fleet.runs()) == TASKS
