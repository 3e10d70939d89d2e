"""Retention: finished tasks and attempts leave by the day, as whole partitions."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from workerqueue_server.store.partitions import PartitionStore

_log = logging.getLogger(__name__)

# Covers the longest retention, 30 days.
_DAYS_AHEAD = 32
# A task's attempts are kept at least as long as the longest retention of the task itself.
_ATTEMPTS_DAYS = 31
_PAUSE_SECONDS = 600.0
_HELD_SECONDS = 30.0


@dataclass
class Retention:
    """Every server does this; which one gets there first does not matter."""

    store: PartitionStore

    async def prepare(self) -> None:
        """Makes the partitions that finished tasks need from now on."""
        if made := await self.store.create(_DAYS_AHEAD):
            _log.info("made %d partitions", made)

    async def duty(self) -> float:
        """Makes partitions ahead and drops those whose day is over."""
        await self.prepare()
        while (drop := await self.store.drop_expired(_ATTEMPTS_DAYS)).dropped is not None:
            _log.info("dropped partition %s", drop.dropped)
        await self.store.forget_dropped_days()
        if drop.held_by is None:
            return _PAUSE_SECONDS
        _log.info("an expired partition is in use by %s; it is dropped later", drop.held_by)
        return _HELD_SECONDS
