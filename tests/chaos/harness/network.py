"""What is done to connections, and by clients that do not behave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from tests.chaos.harness.faults import Fault, until
from tests.chaos.harness.processes import Actor
from tests.chaos.harness.proxy import BOTH, Direction, Proxy
from tests.chaos.harness.stage import Stage

_HOSTILE_SECONDS = 60.0


def _directions(pick: Random) -> tuple[Direction, ...]:
    return pick.choice((BOTH, (Direction.TO_SERVER,), (Direction.TO_CLIENT,)))


@asynccontextmanager
async def _proxy(stage: Stage, pick: Random) -> AsyncIterator[Proxy | None]:
    """A proxy of any pair, that behaves again at the end."""
    async with stage.claimed([p for seat in stage.seats for p in seat.proxies], pick) as proxy:
        if proxy is None:
            yield None
            return
        stage.recorder.write("fault", fault=proxy.name, phase="between")
        try:
            yield proxy
        finally:
            proxy.heal()


class Cut(Fault):
    """Connections of a pair are reset, and for a while each new one, too."""

    name = "cut"

    async def run(self, stage: Stage, pick: Random) -> bool:
        """Cuts several times, or refuses."""
        async with _proxy(stage, pick) as proxy:
            if proxy is None:
                return False
            if pick.random() < 0.5:
                proxy.refuse()
                await asyncio.sleep(pick.uniform(1, 5))
            else:
                for _ in range(pick.randint(1, 10)):
                    proxy.cut()
                    await asyncio.sleep(pick.uniform(0, 0.5))
        return True


class Delay(Fault):
    """Bytes between a pair are late, in one direction or both."""

    name = "delay"

    async def run(self, stage: Stage, pick: Random) -> bool:
        """Delays."""
        async with _proxy(stage, pick) as proxy:
            if proxy is None:
                return False
            proxy.delay(pick.choice((0.01, 0.1, 0.5, 2)), _directions(pick))
            await asyncio.sleep(pick.uniform(3, 8))
        return True


class Truncate(Fault):
    """Connections end in the middle of a message."""

    name = "truncate"

    async def run(self, stage: Stage, pick: Random) -> bool:
        """Truncates each connection after some bytes."""
        async with _proxy(stage, pick) as proxy:
            if proxy is None:
                return False
            proxy.truncate(pick.choice((1, 10, 100, 1_000, 10_000)), _directions(pick))
            await asyncio.sleep(pick.uniform(2, 6))
        return True


class BlackHole(Fault):
    """Connections stay open and nothing arrives, in one direction or both, past the lease."""

    name = "black hole"

    async def run(self, stage: Stage, pick: Random) -> bool:
        """Swallows."""
        async with _proxy(stage, pick) as proxy:
            if proxy is None:
                return False
            proxy.swallow(_directions(pick))
            await asyncio.sleep(stage.scale.lease_seconds + pick.uniform(1, 15))
        return True


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
