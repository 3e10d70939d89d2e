"""Which ticks of a schedule make tasks, and when the next one is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import NamedTuple

from workerqueue_server.queue.cron import Cron

_INSTANT = timedelta(microseconds=1)


class CatchUp(Enum):
    """What late ticks make."""

    SKIP = "skip"
    LATEST = "latest"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Rule:
    """When a schedule ticks, and what becomes of late ticks.

    Attributes:
        late_after: The age from which a tick counts as late.
        catch_up_limit: For CatchUp.ALL: the most ticks that make tasks at once.
        start: The first moment that may be a tick.
        end: The first moment that may not.
    """

    cron: Cron
    catch_up: CatchUp = CatchUp.LATEST
    catch_up_limit: int = 100
    late_after: timedelta = timedelta(minutes=1)
    start: datetime | None = None
    end: datetime | None = None

    def after(self, moment: datetime) -> datetime | None:
        """The first tick later than the moment."""
        return next(iter(self.first(1, moment)), None)

    def first(self, count: int, moment: datetime) -> list[datetime]:
        """Up to so many ticks later than the moment."""
        if self.start is not None:
            moment = max(moment, self.start - _INSTANT)
        ticks = self.cron.first(count, moment)
        return ticks if self.end is None else [tick for tick in ticks if tick < self.end]


class Due(NamedTuple):
    """What has become due."""

    # The ticks that make tasks, in order.
    ticks: list[datetime]
    # The last tick that is dealt with, whether it makes a task or not; None: there was none.
    last: datetime | None
    # A late tick was dropped.
    dropped: bool
    # The next tick to wait for.
    next: datetime | None


def due(rule: Rule, since: datetime, now: datetime) -> Due:
    """What to do with the ticks from ``since`` (inclusive) to ``now``."""
    before = since - _INSTANT
    until = now if rule.end is None else min(now, rule.end - _INSTANT)
    late_until = min(now - rule.late_after, until)
    on_time: list[datetime] = []
    following = None
    for tick in rule.cron.ticks(max(before, late_until)):
        if tick > now:
            following = tick
            break
        if tick <= until:
            on_time.append(tick)
    if following is not None and rule.end is not None and following >= rule.end:
        following = None
    wanted = {
        CatchUp.SKIP: 0,
        CatchUp.LATEST: 0 if on_time else 1,
        CatchUp.ALL: max(0, rule.catch_up_limit - len(on_time)),
    }[rule.catch_up]
    # One more than wanted tells whether any is dropped.
    late = rule.cron.last(wanted + 1, before, late_until)
    ticks = late[max(0, len(late) - wanted) :] + on_time
    return Due(
        ticks,
        max((*late[-1:], *on_time[-1:]), default=None),
        len(late) > wanted,
        following,
    )
