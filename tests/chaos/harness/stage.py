"""The processes of one episode, and what faults may do to them.

    producers -> proxy -> server -> proxy -> PostgreSQL
    workers   -> proxy ->

Each server has a proxy for producers, one for workers, and one to the database, so that each pair
can be parted from each other. Where the machine has network namespaces, each server lives in one of
its own, and between it and its proxies are links that can fall silent.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TypeVar

import psycopg

from tests.chaos.harness import observer
from tests.chaos.harness.faulty import VARIABLE
from tests.chaos.harness.history import Recorder
from tests.chaos.harness.processes import REPOSITORY, Actor, FakeClock, SmallDisk, Standby
from tests.chaos.harness.producer import (
    EACH,
    EACH_LIMIT,
    NARROW,
    NARROW_LIMIT,
    QUEUES,
    RETRY,
    TICKS,
)
from tests.chaos.harness.proxy import Proxy
from tests.networks import Namespace
from tests.postgres import PostgresCluster, available_majors
from tests.servers import ServerProcess
from tests.toolkit import connected, request, seconds
from workerqueue.v1 import policy_pb2, schedule_pb2
from workerqueue.v1 import queue_admin_pb2 as pb
from workerqueue.v1.worker_queue_admin_pb2_grpc import WorkerQueueAdminStub

T = TypeVar("T")

DATABASE = "postgres"
_WATCH_SECONDS = 0.25
_SYNCHRONOUS = {"synchronous_standby_names": "standby", "wal_keep_size": "256MB"}
_DISK_MB = 1_500


@dataclass(frozen=True)
class Scale:
    """How large an episode is."""

    servers: int = 2
    workers: int = 4
    producers: int = 2
    tasks_per_second: float = 40.0
    lease_seconds: float = 3.0
    # A standby that the primary waits for at each commit.
    standby: bool = False
    # Servers and database run on clocks that can be set.
    fake_clocks: bool = False
    # The database lies on a disk that can be filled.
    small_disk: bool = False
    # Each server has a network of its own.
    namespaces: bool = False


def ticks() -> schedule_pb2.Schedule:
    """The schedule of an episode, whose tasks are tried again as soon as those of producers."""
    month = seconds(30 * 86_400)
    retention = policy_pb2.RetentionPolicy(succeeded=month, dead=month)
    return schedule_pb2.Schedule(
        schedule_id=TICKS,
        cron=f"*/{observer.TICK_SECONDS} * * * * *",
        task=request(queue=TICKS, max_attempts=10, retry=RETRY, retention=retention),
        catch_up=schedule_pb2.CATCH_UP_POLICY_ALL,
        catch_up_limit=1_000,
        overlap=schedule_pb2.OVERLAP_POLICY_ALLOW,
    )


class Seat:
    """One server with its proxies, its fault point and its clock."""

    def __init__(self, number: int, folder: Path, scale: Scale) -> None:
        self.point = folder / f"server-{number}.point"
        self.clock = FakeClock(folder / f"server-{number}.clock") if scale.fake_clocks else None
        self.number = number
        self.namespace = Namespace("database", "clients") if scale.namespaces else None
        links = self.namespace.links if self.namespace is not None else {}
        near = links["database"].host if links else "127.0.0.1"
        # Where the server listens.
        self._host = links["clients"].far if links else "127.0.0.1"
        self.database = Proxy(f"server {number} - PostgreSQL", ("127.0.0.1", 0), near)
        self.producers = Proxy(f"producers - server {number}", ("127.0.0.1", 0))
        self.workers = Proxy(f"workers - server {number}", ("127.0.0.1", 0))
        self.server: ServerProcess

    @property
    def proxies(self) -> tuple[Proxy, Proxy, Proxy]:
        """All three."""
        return (self.producers, self.workers, self.database)

    async def launch(self, database_port: int) -> None:
        """Starts the proxies, and the server without waiting for it."""
        for proxy in self.proxies:
            await proxy.start()
        self.database.target = ("127.0.0.1", database_port)
        path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        environment = {VARIABLE: str(self.point), "PYTHONPATH": path}
        self.server = ServerProcess(
            f"postgresql://postgres@{self.database.address}/{DATABASE}",
            name=f"server-{self.number}",
            program=("-m", "tests.chaos.harness.faulty"),
            environment=environment | (self.clock.environment if self.clock else {}),
            drain_seconds=3.0,
            host=self._host,
            prefix=self.namespace.prefix if self.namespace is not None else (),
            arguments=["--allow-insecure"] if self.namespace is not None else (),
        )
        self.server.launch()

    async def serve(self) -> None:
        """Waits until the server serves, and lets clients come."""
        await asyncio.to_thread(self.server.wait_until_serving)
        for proxy in (self.producers, self.workers):
            proxy.target = (self._host, self.server.port)


class Stage:
    """Starts everything, hands out targets to faults, and ends everything."""

    def __init__(self, folder: Path, scale: Scale, seed: int) -> None:
        self.folder = folder
        self.scale = scale
        self.recorder = Recorder(folder, "supervisor")
        self.clock: FakeClock | None = None
        self.clock_ahead = 0
        self.disk: SmallDisk | None = None
        self.standby: Standby | None = None
        self.hostile = 0
        self._seed = seed
        self._claimed: set[object] = set()
        self._resting: set[object] = set()
        self._stack = ExitStack()
        self._watching: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Starts the database, then servers, then clients."""
        await asyncio.to_thread(self._start_database)
        self.seats: list[Seat] = []
        for number in range(self.scale.servers):
            seat = Seat(number, self.folder, self.scale)
            self.seats.append(seat)
            if seat.namespace is not None:
                self._stack.callback(seat.namespace.close)
        for seat in self.seats:
            await seat.launch(self.cluster.port)
        for seat in self.seats:
            await seat.serve()
        await self._declare()
        self.producers = [self._producer(n) for n in range(self.scale.producers)]
        self.workers = [self._worker(n) for n in range(self.scale.workers)]
        for actor in (*self.producers, *self.workers):
            actor.launch()
        watch = observer.watch(
            lambda: self.cluster.dsn(DATABASE), Recorder(self.folder, "observer")
        )
        self._watching = [asyncio.create_task(watch), asyncio.create_task(self._watch_processes())]

    def _start_database(self) -> None:
        environment: dict[str, str] = {}
        if self.scale.fake_clocks:
            self.clock = FakeClock(self.folder / "postgres.clock")
            environment = self.clock.environment
        if self.scale.small_disk:
            self.disk = SmallDisk(_DISK_MB)
            self._stack.callback(self.disk.close)
        self.cluster = PostgresCluster(
            next(iter(available_majors())),
            _SYNCHRONOUS if self.scale.standby else None,
            parent=self.disk.path if self.disk else None,
            environment=environment,
        )
        self._stack.callback(lambda: self.cluster.destroy())
        self.cluster.start()
        if self.scale.standby:
            self.standby = Standby(self.cluster)
            self._stack.callback(self.standby.destroy)
            self.standby.start()

    async def _declare(self) -> None:
        async with connected(self.seats[0].server.address) as api:
            admin = WorkerQueueAdminStub(api.channel)
            for limited in (
                pb.UpdateQueueRequest(queue=NARROW, max_in_flight=NARROW_LIMIT),
                pb.UpdateQueueRequest(queue=EACH, max_in_flight_per_worker=EACH_LIMIT),
            ):
                limited.allow_missing = True
                await admin.UpdateQueue(limited)
            await admin.CreateSchedule(schedule_pb2.CreateScheduleRequest(schedule=ticks()))

    def _producer(self, number: int) -> Actor:
        options = {
            "folder": str(self.folder),
            "name": f"producer-{number}",
            "addresses": [seat.producers.address for seat in self.seats],
            "seed": self._seed * 100 + number,
            "tasks_per_second": self.scale.tasks_per_second / self.scale.producers,
        }
        return Actor("producer", options, self.folder)

    def _worker(self, number: int) -> Actor:
        options = {
            "folder": str(self.folder),
            "name": f"worker-{number}",
            "addresses": [seat.workers.address for seat in self.seats],
            "queues": [*QUEUES, TICKS],
            "seed": self._seed * 100 + 50 + number,
            "window": 20,
            "work_seconds": (0.001, 0.05),
            "lease_seconds": self.scale.lease_seconds,
            # The last one reads so slowly that frames wait for it.
            "read_pause_seconds": 0.05 if number == self.scale.workers - 1 else 0.0,
            "only_acks": False,
        }
        return Actor("worker", options, self.folder)

    async def _watch_processes(self) -> None:
        """Notes processes that ended and that no fault killed, and starts them again."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            processes: list[ServerProcess | Actor] = [seat.server for seat in self.seats]
            for process in (*processes, *self.producers, *self.workers):
                code = process.returncode
                if code is None or process in self._claimed or process in self._resting:
                    continue
                text = process.log()[-600:]
                # A server that never came to listen found no database: it is started again.
                stood = isinstance(process, Actor) or process.listens
                if code != -signal.SIGKILL and stood:
                    self.note(process.name, "ended by itself", code, text)
                process.launch()

    def note(self, process: str, phase: str, code: int | None = None, text: str = "") -> None:
        """Records what became of a process."""
        self.recorder.write("process", process=process, phase=phase, code=code, text=text)

    @asynccontextmanager
    async def claimed(self, choices: Sequence[T], pick: Random) -> AsyncIterator[T | None]:
        """One of the choices that no other fault has now; None: there is none."""
        free = [choice for choice in choices if choice not in self._claimed]
        if not free:
            yield None
            return
        chosen = pick.choice(free)
        self._claimed.add(chosen)
        try:
            yield chosen
        finally:
            self._claimed.discard(chosen)

    async def execute(self, statement: str) -> None:
        """Runs a statement as an operator of the database; nothing if it does not answer."""
        try:
            async with await psycopg.AsyncConnection.connect(
                self.cluster.dsn(DATABASE), autocommit=True, connect_timeout=2
            ) as connection:
                await connection.execute(statement.encode())
        except psycopg.Error:
            pass

    def fail_over(self) -> None:
        """Kills the primary and makes the standby the database that everybody gets."""
        assert self.standby is not None
        old, self.cluster, self.standby = self.cluster, self.standby, None
        old.kill()
        self._stack.callback(old.destroy)
        with psycopg.connect(self.cluster.dsn(DATABASE), autocommit=True) as connection:
            connection.execute("select pg_promote(wait => true)")
        for seat in self.seats:
            seat.database.target = ("127.0.0.1", self.cluster.port)
            seat.database.cut()

    async def drain(self, patience: float) -> bool:
        """Ends the producers and waits until no task is left; whether that came to pass.

        It waits for as long as there are fewer and fewer tasks: what takes the machine long is no
        fault, what stands still is one. A look that a loaded machine makes late counts as if it had
        come when it should: patience is meant for the system and not for the machine.
        """
        self._resting.update(self.producers)
        for producer in self.producers:
            producer.send(signal.SIGTERM)
        await self.execute("update workerqueue.schedules set paused = true")
        fewest, looks = 1 << 60, 0
        while looks * _WATCH_SECONDS < patience:
            looks += 1
            left = sum(producer.returncode is None for producer in self.producers) * 1_000_000
            try:
                left += await observer.live_tasks(self.cluster.dsn(DATABASE))
            except psycopg.Error:
                left = fewest
            if left == 0:
                return True
            if left < fewest:
                fewest, looks = left, 0
            await asyncio.sleep(_WATCH_SECONDS)
        # So what is read next is the end.
        for worker in self.workers:
            self._resting.add(worker)
            await asyncio.to_thread(worker.kill)
        return False

    async def stop(self) -> None:
        """Ends everything, whatever state it is in."""
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        await asyncio.to_thread(self._kill_all)
        for seat in getattr(self, "seats", []):
            for proxy in seat.proxies:
                await proxy.stop()
        await asyncio.to_thread(self._stack.close)

    def _kill_all(self) -> None:
        for actor in (*getattr(self, "producers", []), *getattr(self, "workers", [])):
            actor.kill()
        for seat in getattr(self, "seats", []):
            if hasattr(seat, "server"):
                seat.server.kill()
                shutil.copy(seat.server.log_file, self.folder / f"{seat.server.name}.log")
