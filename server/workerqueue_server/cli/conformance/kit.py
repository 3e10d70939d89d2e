"""Runs scenarios: those that leave the servers alone side by side, the others one by one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from workerqueue.v1 import worker_queue_admin_pb2_grpc, worker_queue_pb2_grpc
from workerqueue_server.cli.conformance.program import Failed
from workerqueue_server.cli.conformance.scenarios import Scenario
from workerqueue_server.cli.conformance.servers import (
    Forwarder,
    ServerProcess,
    write_descriptors,
)
from workerqueue_server.cli.conformance.stage import Commands, Stage
from workerqueue_server.store.embedded import EmbeddedPostgres

# Most scenarios wait more than they work; this many at once keep a small machine responsive.
_AT_ONCE = 4


@dataclass(frozen=True)
class Result:
    """How one scenario went.

    Attributes:
        problem: What the program did not do; empty: passed.
        complaints: The first and last lines of its standard error, if it failed.
    """

    scenario: Scenario
    seconds: float
    problem: str = ""
    complaints: list[str] = field(default_factory=list)


class Kit:
    """Real servers behind one address."""

    def __init__(self, folder: Path, dsn: str, forwarder: Forwarder) -> None:
        """Use ``running``."""
        self._folder = folder
        self._dsn = dsn
        self._descriptors = folder / "kinds.binpb"
        self._forwarder = forwarder
        self._started: list[ServerProcess] = []
        self._channel: grpc.aio.Channel | None = None

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path, dsn: str | None) -> AsyncIterator[Kit]:
        """A kit with a server that serves; without a DSN on an embedded database in ``folder``.

        Raises CannotRun or DatabaseUnavailable.
        """
        if dsn is None:
            async with (
                EmbeddedPostgres(folder / "data") as own_dsn,
                cls.running(folder, own_dsn) as kit,
            ):
                yield kit
            return
        async with Forwarder() as forwarder:
            kit = cls(folder, dsn, forwarder)
            write_descriptors(kit._descriptors)
            try:
                await kit._go_on_with(await kit._start())
                yield kit
            finally:
                if kit._channel is not None:
                    await kit._channel.close()
                await asyncio.gather(*(server.stop() for server in kit._started))

    @property
    def address(self) -> str:
        """What programs connect to."""
        return self._forwarder.address

    @property
    def queue_stub(self) -> worker_queue_pb2_grpc.WorkerQueueAsyncStub:
        """The current server's service."""
        assert self._channel is not None
        return worker_queue_pb2_grpc.WorkerQueueStub(self._channel)

    @property
    def admin_stub(self) -> worker_queue_admin_pb2_grpc.WorkerQueueAdminAsyncStub:
        """The current server's service for operators."""
        assert self._channel is not None
        return worker_queue_admin_pb2_grpc.WorkerQueueAdminStub(self._channel)

    async def hand_over(self) -> None:
        """Starts a successor, leads new connections to it and drains the current server."""
        old, new = self._started[-1], await self._start()
        await self._go_on_with(new)
        old.drain()

    async def replace_killed(self) -> None:
        """Kills the current server; a successor takes its place a moment later."""
        self.cut_off()
        await self._started[-1].kill()
        await self._go_on_with(await self._start())

    def cut_off(self) -> None:
        """Refuses new connections and leads nowhere."""
        self._forwarder.target = None

    @property
    def turned_away(self) -> int:
        """How many connections were made while it led nowhere."""
        return self._forwarder.turned_away

    def lead_back(self) -> None:
        """Leads to the current server again."""
        self._forwarder.target = self._started[-1].port

    async def _start(self) -> ServerProcess:
        server = ServerProcess(self._folder, self._dsn, self._descriptors, len(self._started))
        self._started.append(server)
        await server.start()
        return server

    async def _go_on_with(self, server: ServerProcess) -> None:
        if self._channel is not None:
            await self._channel.close()
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")
        self.lead_back()


async def run(
    kit: Kit,
    scenarios: Sequence[Scenario],
    commands: Commands,
    folder: Path,
    report: Callable[[Result], None],
) -> list[Result]:
    """Runs the scenarios and reports each when it is over; the results in their order."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def run_one(scenario: Scenario) -> Result:
        async with places:
            result = await _run_one(kit, scenario, commands, folder)
        report(result)
        return result

    quiet = [scenario for scenario in scenarios if not scenario.disrupts]
    results = await asyncio.gather(*map(run_one, quiet))
    return results + [await run_one(scenario) for scenario in scenarios if scenario.disrupts]


async def _run_one(kit: Kit, scenario: Scenario, commands: Commands, folder: Path) -> Result:
    stage = Stage(scenario.name, kit, commands, folder)
    started = time.monotonic()
    problem = ""
    try:
        await scenario.run(stage)
    except Failed as failed:
        problem = str(failed)
    except grpc.aio.AioRpcError as error:
        problem = f"the kit's own call failed: {error.code().name}: {error.details()}"
    seconds = time.monotonic() - started
    complaints: list[str] = []
    for program in stage.programs:
        await program.kill()
        if problem:
            complaints += program.complaints()
    return Result(scenario, seconds, problem, complaints)
