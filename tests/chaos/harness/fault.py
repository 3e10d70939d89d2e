"""What a fault is.

A fault strikes, holds, and heals; when `run` returns, all is as before. What it picks comes from
the generator it is given, so a seed repeats it.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from random import Random
from typing import ClassVar, Generic, TypeVar

from tests.chaos.harness.stage import Stage

_POLL_SECONDS = 0.1
T = TypeVar("T")


class Fault(ABC):
    """Something that goes wrong."""

    name: ClassVar[str]

    @staticmethod
    def unavailable(stage: Stage) -> str | None:
        """Why it cannot be done on this stage; None: it can."""
        return None

    @abstractmethod
    async def run(self, stage: Stage, pick: Random) -> bool:
        """Strikes, holds and heals. False: nothing to strike, nothing was done."""


class Blow(Fault, Generic[T]):
    """One target, which no other fault has meanwhile, is struck, held for a while, and healed."""

    # For how many seconds, beyond the lease duration where leases are to end meanwhile.
    seconds: ClassVar[tuple[float, float]]
    past_lease: ClassVar[bool] = False

    @abstractmethod
    def claimed(self, stage: Stage, pick: Random) -> AbstractAsyncContextManager[T | None]:
        """Whatever is struck; None: there is nothing to strike."""

    @abstractmethod
    async def strike(self, stage: Stage, target: T, pick: Random) -> None:
        """Does it."""

    @abstractmethod
    async def heal(self, stage: Stage, target: T) -> None:
        """Ends it."""

    async def run(self, stage: Stage, pick: Random) -> bool:
        """Strikes, holds and heals."""
        async with self.claimed(stage, pick) as target:
            if target is None:
                return False
            await self.strike(stage, target, pick)
            try:
                least = stage.scale.lease_seconds if self.past_lease else 0
                await asyncio.sleep(least + pick.uniform(*self.seconds))
            finally:
                await self.heal(stage, target)
        return True


async def until(probe: Callable[[], bool], limit: float) -> bool:
    """Whether the probe came true within so many seconds."""
    deadline = asyncio.get_running_loop().time() + limit
    while not probe():
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True
