"""What is done to connections, and by clients that do not behave."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from random import Random

from tests.chaos.harness.fault import Blow, Fault, until
from tests.chaos.harness.processes import Actor
from tests.chaos.harness.proxy import BOTH, Direction, Proxy
from tests.chaos.harness.stage import Seat, Stage
from tests.networks import BOTH_WAYS, Way

_HOSTILE_SECONDS = 60.0


def _directions(pick: Random) -> tuple[Direction, ...]:
    return pick.choice((BOTH, (Direction.TO_SERVER,), (Direction.TO_CLIENT,)))


class OnProxy(Blow[Proxy]):
    """Strikes the connections of a pair, whichever it is."""

    def claimed(self, stage: Stage, pick: Random) -> AbstractAsyncContextManager[Proxy | None]:
        """Any pair's proxy."""
        return stage.claimed([p for seat in stage.seats for p in seat.proxies], pick)

    async def strike(self, stage: Stage, target: Proxy, pick: Random) -> None:
        """Does it, and writes down between whom."""
        stage.recorder.write("fault", fault=target.name, phase="between")
        await self.spoil(target, pick)

    @abstractmethod
    async def spoil(self, proxy: Proxy, pick: Random) -> None:
        """Does it."""

    async def heal(self, stage: Stage, target: Proxy) -> None:
        """Lets everything pass."""
        target.heal()


class Cut(OnProxy):
    """Connections of a pair are reset, and for a while each new one, too."""

    name = "cut"
    seconds = (0, 3)

    async def spoil(self, proxy: Proxy, pick: Random) -> None:
        """Cuts several times, or refuses."""
        if pick.random() < 0.5:
            proxy.refuse()
            return
        for _ in range(pick.randint(1, 10)):
            proxy.cut()
            await asyncio.sleep(pick.uniform(0, 0.5))


class Delay(OnProxy):
    """Bytes between a pair are late, in one direction or both."""

    name = "delay"
    seconds = (3, 8)

    async def spoil(self, proxy: Proxy, pick: Random) -> None:
        """Delays."""
        proxy.delay(pick.choice((0.01, 0.1, 0.5, 2)), _directions(pick))


class Truncate(OnProxy):
    """Connections end in the middle of a message."""

    name = "truncate"
    seconds = (2, 6)

    async def spoil(self, proxy: Proxy, pick: Random) -> None:
        """Truncates each connection after some bytes."""
        proxy.truncate(pick.choice((1, 10, 100, 1_000, 10_000)), _directions(pick))


class BlackHole(OnProxy):
    """Connections stay open and nothing arrives, in one direction or both, past the lease."""

    name = "black hole"
    seconds = (1, 15)
    past_lease = True

    async def spoil(self, proxy: Proxy, pick: Random) -> None:
        """Swallows."""
        proxy.swallow(_directions(pick))


class SilentLink(Blow[Seat]):
    """A server's links lose every packet, past the lease: nobody hears that it is gone.

    To its clients, to its database, or both; one way or both ways, or the interface goes down.
    """

    name = "link falls silent"
    seconds = (1, 15)
    past_lease = True

    @staticmethod
    def unavailable(stage: Stage) -> str | None:
        """Needs servers with networks of their own."""
        return None if stage.scale.namespaces else "no network namespaces"

    @asynccontextmanager
    async def claimed(self, stage: Stage, pick: Random) -> AsyncIterator[Seat | None]:
        """Any server's links."""
        async with stage.claimed([seat.namespace for seat in stage.seats], pick) as namespace:
            yield next((seat for seat in stage.seats if seat.namespace is namespace), None)

    async def strike(self, stage: Stage, target: Seat, pick: Random) -> None:
        """Silences them, and writes down which and how."""
        assert target.namespace is not None
        names = pick.choice((("database",), ("clients",), ("database", "clients")))
        ways = pick.choice((BOTH_WAYS, (Way.IN,), (Way.OUT,), ()))
        how = " and ".join(way.value for way in ways) or "interface down"
        between = f"server {target.number} - {' and '.join(names)}: {how}"
        stage.recorder.write("fault", fault=between, phase="between")
        for name in names:
            link = target.namespace.links[name]
            await asyncio.to_thread(link.lose, ways)
            if not ways:
                await asyncio.to_thread(link.unplug)

    async def heal(self, stage: Stage, target: Seat) -> None:
        """Lets every packet pass."""
        assert target.namespace is not None
        for link in target.namespace.links.values():
            await asyncio.to_thread(link.heal)


class Hostile(Fault):
    """A client that does what it must not; see harness/hostile.py for what."""

    async def run(self, stage: Stage, pick: Random) -> bool:
        """Runs it to its end, or for a minute."""
        stage.hostile += 1
        options = {
            "folder": str(stage.folder),
            "name": f"hostile-{stage.hostile}",
            "conduct": self.name,
            "address": pick.choice(stage.seats).server.address,
            "seed": pick.randrange(1_000),
            "seconds": stage.scale.lease_seconds + 2,
        }
        client = Actor("hostile", options, stage.folder)
        client.launch()
        try:
            if await until(lambda: client.returncode is not None, _HOSTILE_SECONDS):
                code = client.returncode
                if code != 0:
                    stage.note(client.name, "ended by itself", code, client.log()[-600:])
        finally:
            client.kill()
        return True


class Deaf(Hostile):
    """Workers that take tasks and never read."""

    name = "deaf workers"


class Vanish(Hostile):
    """A thousand streams that connect and vanish."""

    name = "1,000 streams that vanish"


class Malformed(Hostile):
    """Oversized and malformed frames."""

    name = "malformed frames"
