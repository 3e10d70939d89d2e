"""What is done to processes, clocks, the disk and the database: one small class per fault."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from random import Random
from typing import ClassVar

import psycopg

from tests.chaos.harness.fault import Blow, Fault, until
from tests.chaos.harness.faulty import arm
from tests.chaos.harness.processes import Actor, FakeClock
from tests.chaos.harness.stage import DATABASE, Seat, Stage

_POINT_SECONDS = 15.0
_START_SECONDS = 90.0
_STARTS = 10
# Far beyond the drain: a server that is still there then hangs.
_STOP_SECONDS = 90.0
# What the servers' statements are called in store/sql; those that change something.
STATEMENTS = (
    *("enqueue_tasks", "enqueue_and_grant", "grant_runs", "finish_leases", "return_leases"),
    *("prolong_leases", "expire_leases", "promote_due", "admit_waiting"),
)
METHODS = ("enqueue", "enqueue_batch", "ack", "nack")


class OnWorker(Blow[Actor]):
    """Strikes a worker."""

    def claimed(self, stage: Stage, pick: Random) -> AbstractAsyncContextManager[Actor | None]:
        """Any worker."""
        return stage.claimed(stage.workers, pick)


class OnServer(Blow[Seat]):
    """Strikes a server."""

    def claimed(self, stage: Stage, pick: Random) -> AbstractAsyncContextManager[Seat | None]:
        """Any server, with its seat."""
        return claimed_seat(stage, pick)


class OnPostgres(Blow[str]):
    """Strikes PostgreSQL."""

    def claimed(self, stage: Stage, pick: Random) -> AbstractAsyncContextManager[str | None]:
        """It, unless somebody else has it."""
        return stage.claimed(["postgres"], pick)


class KillWorker(OnWorker):
    """SIGKILL to a worker; it comes back a while later."""

    name = "kill worker"
    seconds = (0, 3)

    async def strike(self, stage: Stage, target: Actor, pick: Random) -> None:
        """Kills it."""
        await asyncio.to_thread(target.kill)

    async def heal(self, stage: Stage, target: Actor) -> None:
        """Starts it again."""
        target.launch()


class KillProducer(KillWorker):
    """SIGKILL to a producer, whose calls under way nobody will repeat."""

    name = "kill producer"

    def claimed(self, stage: Stage, pick: Random) -> AbstractAsyncContextManager[Actor | None]:
        """Any producer."""
        return stage.claimed(stage.producers, pick)


class KillServer(OnServer):
    """SIGKILL to a server."""

    name = "kill server"
    seconds = (0, 3)

    async def strike(self, stage: Stage, target: Seat, pick: Random) -> None:
        """Kills it."""
        await asyncio.to_thread(target.server.kill)

    async def heal(self, stage: Stage, target: Seat) -> None:
        """Starts it again."""
        await _start(target)


class FreezeWorker(OnWorker):
    """SIGSTOP to a worker for longer than a lease."""

    name = "freeze worker"
    seconds = (0.5, 3)
    past_lease = True

    async def strike(self, stage: Stage, target: Actor, pick: Random) -> None:
        """Stops it."""
        target.freeze()

    async def heal(self, stage: Stage, target: Actor) -> None:
        """Lets it go on."""
        target.thaw()


class FreezeServer(OnServer):
    """SIGSTOP to a server for longer than a lease."""

    name = "freeze server"
    seconds = (0.5, 3)
    past_lease = True

    async def strike(self, stage: Stage, target: Seat, pick: Random) -> None:
        """Stops it."""
        target.server.freeze()

    async def heal(self, stage: Stage, target: Seat) -> None:
        """Lets it go on."""
        target.server.thaw()


class FreezePostgres(OnPostgres):
    """SIGSTOP to every process of PostgreSQL for longer than a lease."""

    name = "freeze postgres"
    seconds = (0.5, 3)
    past_lease = True

    async def strike(self, stage: Stage, target: str, pick: Random) -> None:
        """Stops them."""
        await asyncio.to_thread(stage.cluster.freeze)

    async def heal(self, stage: Stage, target: str) -> None:
        """Lets them go on."""
        await asyncio.to_thread(stage.cluster.thaw)


class KillPostgres(OnPostgres):
    """SIGKILL to every process of PostgreSQL; it recovers from its log."""

    name = "kill postgres"
    seconds = (0, 3)

    async def strike(self, stage: Stage, target: str, pick: Random) -> None:
        """Kills them."""
        await asyncio.to_thread(stage.cluster.kill)

    async def heal(self, stage: Stage, target: str) -> None:
        """Starts it."""
        await _start_postgres(stage)


class RestartPostgres(KillPostgres):
    """An operator restarts PostgreSQL."""

    name = "restart postgres"
    seconds = (0, 1)

    async def strike(self, stage: Stage, target: str, pick: Random) -> None:
        """Stops it as an operator does."""
        await asyncio.to_thread(stage.cluster.stop, "fast")


class FillDisk(OnPostgres):
    """No room for tables nor for the log; PostgreSQL may stop, and then an operator starts it."""

    name = "full disk"
    seconds = (3, 8)

    @staticmethod
    def unavailable(stage: Stage) -> str | None:
        """Needs a small disk."""
        return None if stage.disk is not None else "no small disk"

    async def strike(self, stage: Stage, target: str, pick: Random) -> None:
        """Fills it."""
        assert stage.disk is not None
        await asyncio.to_thread(stage.disk.fill)

    async def heal(self, stage: Stage, target: str) -> None:
        """Empties it."""
        assert stage.disk is not None
        await asyncio.to_thread(stage.disk.empty)
        if await until(lambda: not stage.cluster.running, 2):
            await _start_postgres(stage)


class JumpServerClock(Blow[FakeClock]):
    """A server's clock is hours off, and comes back."""

    name = "server clock jumps"
    seconds = (3, 8)

    @staticmethod
    def unavailable(stage: Stage) -> str | None:
        """Needs fake clocks."""
        return None if stage.clock is not None else "no fake clocks"

    def claimed(self, stage: Stage, pick: Random) -> AbstractAsyncContextManager[FakeClock | None]:
        """Any server's clock."""
        return stage.claimed([seat.clock for seat in stage.seats if seat.clock], pick)

    async def strike(self, stage: Stage, target: FakeClock, pick: Random) -> None:
        """Sets it off."""
        target.set(pick.choice((-7_200, -30, 30, 7_200, 90_000)))

    async def heal(self, stage: Stage, target: FakeClock) -> None:
        """Sets it back."""
        target.set(0)


class KillServerAtPoint(Fault):
    """SIGKILL to a server at a named point."""

    name = "kill server at a point"
    action: ClassVar[str] = "kill"

    async def run(self, stage: Stage, pick: Random) -> bool:
        """Arms a point, and starts the server again when it has met it."""
        point = pick.choice(
            [f"{when} commit of {name}" for name in STATEMENTS for when in ("before", "after")]
            + [f"before the answer to {name}" for name in METHODS]
        )
        async with claimed_seat(stage, pick) as seat:
            if seat is None:
                return False
            order = {"point": point, "action": self.action, "skip": pick.randrange(5)}
            arm(seat.point, order)
            try:
                met = await until(lambda: not seat.point.exists(), _POINT_SECONDS)
            finally:
                seat.point.unlink(missing_ok=True)
            stage.recorder.write(
                "fault", fault=f"{self.action} {point}", phase="met" if met else "not met"
            )
            if met:
                await self._after(stage, seat, pick)
        return met

    async def _after(self, stage: Stage, seat: Seat, pick: Random) -> None:
        await asyncio.to_thread(seat.server.wait)
        await asyncio.sleep(pick.uniform(0, 2))
        await _start(seat)


class FreezeServerAtPoint(KillServerAtPoint):
    """SIGSTOP to a server at a named point, for longer than a lease."""

    name = "freeze server at a point"
    action = "freeze"

    async def _after(self, stage: Stage, seat: Seat, pick: Random) -> None:
        await asyncio.sleep(stage.scale.lease_seconds + pick.uniform(1, 3))
        seat.server.thaw()


class RollingRestart(Fault):
    """SIGTERM to one server after the other; each drains and comes back."""

    name = "rolling restart"

    async def run(self, stage: Stage, pick: Random) -> bool:
        """Restarts all."""
        async with AsyncExitStack() as stack:
            for seat in stage.seats:
                claimed = await stack.enter_async_context(stage.claimed([seat], pick))
                if claimed is None:
                    return False
                await stack.enter_async_context(stage.claimed([seat.server], pick))
            for seat in stage.seats:
                seat.server.terminate()
                await until(lambda: seat.server.returncode is not None, _STOP_SECONDS)  # noqa: B023
                code = seat.server.returncode
                # One that had not come to listen has no calls to end well.
                if code != 0 and seat.server.listens:
                    stage.note(seat.server.name, "ended by itself", code, "after SIGTERM")
                await asyncio.to_thread(seat.server.kill)
                await _start(seat)
        return True


class FailOver(Fault):
    """The primary dies; its synchronous standby is promoted and takes its place."""

    name = "fail over"

    @staticmethod
    def unavailable(stage: Stage) -> str | None:
        """Needs a standby that is still there."""
        return None if stage.standby is not None else "no standby"

    async def run(self, stage: Stage, pick: Random) -> bool:
        """Kills the primary and promotes."""
        async with stage.claimed(["postgres"], pick) as free:
            if free is None or stage.standby is None:
                return False
            await asyncio.to_thread(stage.fail_over)
        return True


class FreezeStandby(OnPostgres):
    """SIGSTOP to the synchronous standby for longer than a lease: no commit ends meanwhile."""

    name = "freeze standby"
    seconds = (0.5, 10)
    past_lease = True

    @staticmethod
    def unavailable(stage: Stage) -> str | None:
        """Needs a standby."""
        return None if stage.standby is not None else "no standby"

    async def strike(self, stage: Stage, target: str, pick: Random) -> None:
        """Stops it, unless it was promoted: PostgreSQL itself is for another fault."""
        if stage.standby is not None:
            await asyncio.to_thread(stage.standby.freeze)

    async def heal(self, stage: Stage, target: str) -> None:
        """Lets it go on."""
        if stage.standby is not None:
            await asyncio.to_thread(stage.standby.thaw)


class TerminateBackends(Fault):
    """A storm of pg_terminate_backend over every connection of the servers."""

    name = "terminate backends"

    async def run(self, stage: Stage, pick: Random) -> bool:
        """Terminates again and again."""
        for _ in range(pick.randint(3, 15)):
            await stage.execute(TERMINATE)
            await asyncio.sleep(pick.uniform(0, 0.4))
        return True


TERMINATE = (
    "select pg_terminate_backend(pid) from pg_stat_activity"
    " where application_name like 'workerqueue%'"
)


class ExhaustConnections(Fault):
    """Somebody takes every connection that PostgreSQL has, after the servers lost theirs."""

    name = "exhaust connections"

    async def run(self, stage: Stage, pick: Random) -> bool:
        """Takes them and gives them back."""
        async with AsyncExitStack() as stack:
            for _ in range(2):
                try:
                    while True:
                        connection = await psycopg.AsyncConnection.connect(
                            stage.cluster.dsn(DATABASE), connect_timeout=5
                        )
                        await stack.enter_async_context(connection)
                except psycopg.Error:
                    pass
                # Needs a connection of its own: the reserved ones are for superusers, as this is.
                await stage.execute(TERMINATE)
            await asyncio.sleep(pick.uniform(1, 4))
        return True


class LoseNotify(Fault):
    """Hints between servers are lost."""

    name = "lose notify"

    async def run(self, stage: Stage, pick: Random) -> bool:
        """Loses all for a while."""
        async with AsyncExitStack() as stack:
            seats = [await stack.enter_async_context(stage.claimed([s], pick)) for s in stage.seats]
            free = [seat for seat in seats if seat is not None]
            for seat in free:
                arm(seat.point, {"lose": "notify"})
            try:
                await asyncio.sleep(pick.uniform(3, 8))
            finally:
                for seat in free:
                    seat.point.unlink(missing_ok=True)
        return bool(free)


class JumpDatabaseClock(Fault):
    """The database's clock is set forward for good, or back for a while."""

    name = "database clock jumps"

    @staticmethod
    def unavailable(stage: Stage) -> str | None:
        """Needs fake clocks."""
        return None if stage.clock is not None else "no fake clocks"

    async def run(self, stage: Stage, pick: Random) -> bool:
        """Sets it."""
        assert stage.clock is not None
        async with stage.claimed(["database clock"], pick) as free:
            if free is None:
                return False
            if pick.random() < 0.5:
                stage.clock_ahead += pick.choice((5, 60, 300))
                stage.clock.set(stage.clock_ahead)
            else:
                stage.clock.set(stage.clock_ahead - pick.choice((5, 60, 3_600)))
            await asyncio.sleep(pick.uniform(3, 8))
            stage.clock.set(stage.clock_ahead)
            # Processes look at the clock's file once a second.
            await asyncio.sleep(1.5)
        return True


@asynccontextmanager
async def claimed_seat(stage: Stage, pick: Random) -> AsyncIterator[Seat | None]:
    """A seat and its server, for one fault at a time."""
    async with stage.claimed(stage.seats, pick) as seat:
        if seat is None:
            yield None
            return
        # The watcher of processes must not take what a fault does for the server's own doing.
        async with stage.claimed([seat.server], pick):
            yield seat


async def _start(seat: Seat) -> None:
    """Starts a server until it stands: without a database, which another fault took, it cannot."""
    deadline = asyncio.get_running_loop().time() + _START_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        seat.server.launch()
        await until(
            lambda: seat.server.listens or seat.server.returncode is not None, _START_SECONDS
        )
        if seat.server.returncode is None:
            return


async def _start_postgres(stage: Stage) -> None:
    """Starts PostgreSQL; it refuses while a killed process of it is still on its way out."""
    for _ in range(_STARTS - 1):
        try:
            await asyncio.to_thread(stage.cluster.start)
        except RuntimeError:
            await asyncio.sleep(1)
        else:
            return
    await asyncio.to_thread(stage.cluster.start)
