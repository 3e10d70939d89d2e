"""Measures how soon work goes on after a worker, a server or PostgreSQL died.

    python -m tests.chaos.harness.recovery [--times NUMBER] [--scenario NAME]

Two servers, product workers, real processes; no proxies in between. Every scenario fails if a task
is lost or done by a lease that was not its own; what it measures is told, and judged by who asks.

Rates are compared in pairs: right before a death and right after the recovery from it, several
times in one scene. A machine that becomes slower or faster meanwhile changes single pairs, in both
directions, and hardly their median.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
import uuid
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from psycopg import AsyncConnection

from tests.chaos.harness.history import Event, read_history
from tests.chaos.harness.processes import Actor
from tests.postgres import PostgresCluster, available_majors
from tests.servers import ServerProcess
from tests.toolkit import AT_ONCE, connected, eventually, request
from workerqueue import AsyncClient
from workerqueue.tasks.v1.tasks_pb2 import RunFinished

_SECOND = 1_000_000_000
_WAIT_SECONDS = 120.0
_BEFORE_SECONDS = 4.0
_AFTER_SECONDS = 6.0
# After a return, how late the consequences of a death may begin.
_GAP_SECONDS = 4.0
_FULL_RATE = 0.95
_HELD = 20


@dataclass(frozen=True)
class Measured:
    """What a scenario measured."""

    scenario: str
    # From the kill (workers, servers) or the return (PostgreSQL) to the goal.
    seconds: float
    # Tasks a second afterwards, as a share of those before; 0: not measured here.
    throughput: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """For people."""
        share = f", throughput {self.throughput:.0%} of before" if self.throughput else ""
        return f"{self.scenario}: {self.seconds:.2f} s{share} {self.details or ''}".rstrip()


class Scene:
    """A database, two servers, and workers on both of them."""

    def __init__(self, folder: Path, cluster: PostgresCluster, group: list[ServerProcess]) -> None:
        self.folder = folder
        self.cluster = cluster
        self.servers = group
        self.workers: list[Actor] = []

    @property
    def dsn(self) -> str:
        """The database."""
        return self.cluster.dsn("postgres")

    def work(
        self, queue: str, *, concurrency: int = 20, lease_seconds: float = 3.0, first: int = 0
    ) -> Actor:
        """Starts a worker that knows both servers and begins with the given one."""
        order = (self.servers[first], self.servers[1 - first])
        options = {
            "folder": str(self.folder),
            "name": f"worker-{len(self.workers)}",
            "target": "ipv4:" + ",".join(server.address for server in order),
            "queues": [queue],
            "concurrency": concurrency,
            "lease_seconds": lease_seconds,
            "seed": len(self.workers),
        }
        worker = Actor("product_worker", options, self.folder)
        worker.launch()
        self.workers.append(worker)
        return worker

    def end(self) -> None:
        """Kills the workers."""
        for worker in self.workers:
            worker.kill()

    async def enqueue(
        self, queue: str, count: int, work_seconds: float = 0.0, spread: float = 0.0
    ) -> list[str]:
        """Stores tasks that take so long, give or take the spread."""
        pick = Random(count)
        ids = [str(uuid.uuid4()) for _ in range(count)]
        async with connected(self.servers[1].address) as api:
            for start in range(0, count, 5_000):
                made = [
                    request(
                        RunFinished(id=str(work_seconds + pick.uniform(-spread, spread))),
                        task_id=task_id,
                        queue=queue,
                        retry=AT_ONCE,
                        max_attempts=20,
                    )
                    for task_id in ids[start : start + 5_000]
                ]
                await api.ids(made)
        return ids

    def events(self, event: str, by: Actor | None = None) -> list[Event]:
        """What workers wrote down."""
        found = [e for e in read_history(self.folder) if e.event == event]
        return [e for e in found if by is None or e.by == by.name]

    async def succeeded(self, ids: Sequence[str]) -> None:
        """Waits until all of the tasks have succeeded, each once."""

        async def all_done() -> bool:
            async with await AsyncConnection.connect(self.dsn) as connection:
                cursor = await connection.execute(
                    "select count(*), count(distinct id) from workerqueue.history"
                    " where id = any (%s::uuid[]) and state = 'succeeded'",
                    (list(ids),),
                )
                return await cursor.fetchone() == (len(ids), len(ids))

        await eventually(all_done, f"{len(ids)} tasks have succeeded", _WAIT_SECONDS)


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    """A scene; everything in it ends with the block."""
    async with AsyncExitStack() as stack:
        cluster = PostgresCluster(next(iter(available_majors())))
        stack.callback(cluster.destroy)
        await asyncio.to_thread(cluster.start)
        group = [ServerProcess(cluster.dsn("postgres"), name=f"server {n}") for n in range(2)]
        for server in group:
            server.launch()
            stack.callback(server.kill)
        for server in group:
            await asyncio.to_thread(server.wait_until_serving)
        made = Scene(folder, cluster, group)
        stack.callback(made.end)
        yield made


async def worker_killed(folder: Path, lease_seconds: float = 3.0) -> Measured:
    """From the kill of a worker that holds tasks to the start of the last of them elsewhere."""
    async with scene(folder) as stage:
        doomed = stage.work("held", concurrency=_HELD, lease_seconds=lease_seconds)
        ids = await stage.enqueue("held", _HELD, work_seconds=1.0)
        await _until(lambda: len(stage.events("end", doomed)) >= _HELD, "the first round")
        await stage.succeeded(ids)
        held = await stage.enqueue("held", _HELD, work_seconds=600.0)
        await _until(lambda: len(stage.events("start", doomed)) >= 2 * _HELD, "tasks held")
        other = stage.work("held", concurrency=2 * _HELD, lease_seconds=lease_seconds)
        # It has begun when it has a task of its own.
        await stage.enqueue("held", 1)
        await _until(lambda: len(stage.events("start", other)) >= 1, "the other worker")
        killed = time.monotonic_ns()
        doomed.kill()
        await _until(lambda: len(stage.events("start", other)) > _HELD, "tasks run elsewhere")
        starts = [e for e in stage.events("start", other) if e["task"] in set(held)]
    assert {event["attempt"] for event in starts} == {2}
    took = max(event.at for event in starts) - killed
    return Measured("worker killed", took / _SECOND, details={"lease_seconds": lease_seconds})


async def server_killed(folder: Path) -> Measured:
    """From the kill of a server to the first new task of its last worker, elsewhere."""
    async with scene(folder) as stage:
        # A queue for each worker, so that nobody takes the task that tells of another's return.
        queues = [f"held-{n}" for n in range(5)]
        workers = [stage.work(queue, first=0, lease_seconds=10) for queue in queues]
        ids = [i for queue in queues for i in await stage.enqueue(queue, 4, work_seconds=8.0)]
        await _until(lambda: len(stage.events("start")) >= len(ids), "tasks held")
        killed = time.monotonic_ns()
        stage.servers[0].kill()
        later = [i for queue in queues for i in await stage.enqueue(queue, 1)]
        await stage.succeeded([*ids, *later])
        starts = stage.events("start")
        back = []
        for worker in workers:
            after = [e.at for e in starts if e.by == worker.name and e.at > killed]
            back.append((min(after) - killed) / _SECOND if after else float("inf"))
        attempts = {e["attempt"] for e in starts if e["task"] in set(ids)}
    assert attempts == {1}, "a lease did not survive its server"
    details = {"median": round(statistics.median(back), 2), "leases_kept": len(ids)}
    return Measured("server killed", max(back), details=details)


async def postgres_restarted(folder: Path, rounds: int = 1) -> Measured:
    """From PostgreSQL's return after a crash to the full rate of a loaded queue."""

    async def crash(stage: Scene) -> int:
        await asyncio.to_thread(stage.cluster.kill)
        await asyncio.to_thread(stage.cluster.start)
        return time.monotonic_ns()

    return await _under_load("PostgreSQL restarted", folder, crash, rounds)


async def worker_killed_under_load(folder: Path, rounds: int = 1) -> Measured:
    """The rate of a loaded queue after a worker died and came back."""

    async def crash(stage: Scene) -> int:
        await asyncio.to_thread(stage.workers[0].kill)
        stage.workers[0].launch()
        return time.monotonic_ns()

    return await _under_load("worker killed under load", folder, crash, rounds)


async def server_killed_under_load(folder: Path, rounds: int = 1) -> Measured:
    """The rate of a loaded queue after a server died and came back."""

    async def crash(stage: Scene) -> int:
        await asyncio.to_thread(stage.servers[0].kill)
        await asyncio.to_thread(stage.servers[0].launch)
        await asyncio.to_thread(stage.servers[0].wait_until_serving)
        return time.monotonic_ns()

    return await _under_load("server killed under load", folder, crash, rounds)


async def rolling_restart(folder: Path) -> Measured:
    """The longest that an enqueue took while one server after the other restarted.

    The product's client and workers; any error that the client raises fails the scenario, and so
    does any attempt beyond a task's first.
    """
    async with scene(folder) as stage:
        for n in range(2):
            # Longer than a loaded machine may hold a worker up: here no lease may end by its clock.
            stage.work("rolling", first=n, lease_seconds=15)
        targets = [server.address for server in stage.servers]
        ending = asyncio.Event()
        took: list[float] = []
        ids: list[str] = []

        async def produce(client: AsyncClient) -> None:
            while not ending.is_set():
                begun = time.monotonic()
                handle = await client.enqueue(RunFinished(id="0.01"), queue="rolling")
                took.append(time.monotonic() - begun)
                ids.append(handle.task_id)
                await asyncio.sleep(0.02)

        async with AsyncClient("ipv4:" + ",".join(targets), timeout=60) as client:
            producers = [asyncio.create_task(produce(client)) for _ in range(4)]
            await _until(lambda: len(ids) > 50, "tasks before the restarts")
            for server in stage.servers:
                assert await asyncio.to_thread(server.stop) == 0
                server.launch()
                await asyncio.to_thread(server.wait_until_serving)
            ending.set()
            await asyncio.gather(*producers)
        await stage.succeeded(ids)
        assert {event["attempt"] for event in stage.events("start")} == {1}
    return Measured("rolling restart", max(took), details={"tasks": len(ids), "errors": 0})


async def _under_load(
    name: str, folder: Path, crash: Callable[[Scene], Any], rounds: int
) -> Measured:
    """A queue that is never empty, worked on by both servers' workers before and after."""
    struck: list[tuple[int, int]] = []
    async with scene(folder) as stage:
        ids = await stage.enqueue("load", 1_000 * (rounds + 1), work_seconds=0.4, spread=0.2)
        for n in range(4):
            # 4 x 3 tasks that wait 400 ms: the work sets the rate, 30 a second, which even a loaded
            # machine keeps up. So whatever is lost of it is lost by the queue.
            stage.work("load", concurrency=3, first=n % 2)
        await _until(lambda: len({e.by for e in stage.events("end")}) == 4, "all workers at work")
        for _ in range(rounds):
            await asyncio.sleep(_BEFORE_SECONDS + 1)
            at = time.monotonic_ns()
            struck.append((at, await crash(stage)))
            await asyncio.sleep(_AFTER_SECONDS + 6)
        ended = [server.returncode for server in stage.servers] + [
            worker.returncode for worker in stage.workers
        ]
        ends = sorted(event.at for event in stage.events("end"))
        # What was lost is at the end of the line now.
        stage.work("load", concurrency=300)
        await stage.succeeded(ids)
    assert ended == [None] * len(ended), f"a process ended: {ended}"
    pairs = [_pair(ends, at, returned) for at, returned in struck]
    shares = [pair.after / pair.before for pair in pairs]
    details = {
        "rounds": rounds,
        "worst_seconds": round(max(pair.seconds for pair in pairs), 2),
        "shares": [round(share, 2) for share in shares],
        "before_per_second": [round(pair.before) for pair in pairs],
    }
    seconds_to_full = statistics.median(pair.seconds for pair in pairs)
    return Measured(name, seconds_to_full, statistics.median(shares), details)


@dataclass(frozen=True)
class _Pair:
    """Rates around one death."""

    before: float
    after: float
    # From the return of what died to the first second at the full rate.
    seconds: float


def _pair(ends: Sequence[int], struck: int, returned: int) -> _Pair:
    before = _rate(ends, struck - int(_BEFORE_SECONDS * _SECOND), struck)
    # Workers go on with what they hold: the gap comes later than the death, or the return.
    steps = range(struck, returned + int(_GAP_SECONDS * _SECOND), _SECOND // 50)
    gap = min(steps, key=lambda at: _rate(ends, at, at + _SECOND))
    took = next(
        (
            (at + _SECOND - returned) / _SECOND
            for at in range(gap, ends[-1], _SECOND // 50)
            if _rate(ends, at, at + _SECOND) >= _FULL_RATE * before
        ),
        float("inf"),
    )
    full = returned + int(min(took, 6) * _SECOND)
    after = _rate(ends, full, full + int(_AFTER_SECONDS * _SECOND))
    return _Pair(before, after, max(0.0, took))


def _rate(times: Sequence[int], start: int, end: int) -> float:
    return (bisect_left(times, end) - bisect_left(times, start)) * _SECOND / (end - start)


async def _until(probe: Callable[[], bool], what: str) -> None:
    await eventually(probe, what, _WAIT_SECONDS)


_ROUNDS = 5
SCENARIOS: dict[str, Callable[[Path], Awaitable[Measured]]] = {
    "worker killed": worker_killed,
    "server killed": server_killed,
    "rolling restart": rolling_restart,
    "PostgreSQL restarted": partial(postgres_restarted, rounds=_ROUNDS),
    "worker killed under load": partial(worker_killed_under_load, rounds=_ROUNDS),
    "server killed under load": partial(server_killed_under_load, rounds=_ROUNDS),
}


async def _measure(times: int, chosen: Sequence[str]) -> None:
    for name in chosen:
        for _ in range(times):
            with tempfile.TemporaryDirectory(prefix="workerqueue-recovery-") as folder:
                measured = await SCENARIOS[name](Path(folder))
            sys.stdout.write(measured.text() + "\n")
            sys.stdout.flush()


def main() -> None:
    """Measures every scenario."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=3, help="how often each (default: 3)")
    parser.add_argument(
        "--scenario", action="append", choices=SCENARIOS, help="this only; may be repeated"
    )
    given = parser.parse_args()
    asyncio.run(_measure(given.times, given.scenario or list(SCENARIOS)))


if __name__ == "__main__":
    main()
