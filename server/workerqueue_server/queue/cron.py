"""Cron expressions in a time zone: which instants they mean.

cronsim does the arithmetic; it follows Debian's cron, also where clocks change. An instant here is
an aware datetime in UTC, a tick always a whole second.
"""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import islice
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim

EXPRESSION_CHARACTERS = 256

_SHORTHANDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_GROWTH = 8


class CronError(ValueError):
    """An expression or a time zone that means nothing; the message says why.

    Attributes:
        field: What is wrong: ``cron`` or ``time_zone``.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Cron:
    """An expression in a time zone."""

    def __init__(self, expression: str, time_zone: str = "UTC") -> None:
        """Raises CronError."""
        self._zone = find_zone(time_zone)
        self._expression = read_expression(expression)
        # The least time between two ticks.
        self._finest = timedelta(seconds=60 if len(self._expression.split()) == 5 else 1)

    def after(self, moment: datetime) -> datetime | None:
        """The first tick later than the moment; None if there is none within fifty years."""
        return next(self.ticks(moment), None)

    def ticks(self, moment: datetime) -> Iterator[datetime]:
        """All ticks later than the moment, in order."""
        last = moment
        try:
            simulation = CronSim(self._expression, moment.astimezone(self._zone))
        except OverflowError:
            return
        while True:
            try:
                tick = next(simulation).astimezone(UTC)
            except (StopIteration, OverflowError):
                # Nothing within fifty years, or not before the year 10000.
                return
            # In the hour that a clock goes through twice, the simulation of a fixed time starts
            # over in the first pass, which may lie before the moment.
            if tick > last:
                last = tick
                yield tick

    def first(self, count: int, moment: datetime) -> list[datetime]:
        """Up to so many ticks later than the moment."""
        return list(islice(self.ticks(moment), count))

    def last(self, count: int, start: datetime, end: datetime) -> list[datetime]:
        """The last ``count`` ticks later than ``start`` and not later than ``end``, in order.

        Reads backwards in windows that grow, so that the cost follows the count and not the span.
        """
        found: deque[datetime] = deque()
        width = self._finest * (count + 1)
        high = end
        while len(found) < count and high > start:
            low = max(start, high - width)
            missing = count - len(found)
            window: deque[datetime] = deque(maxlen=missing)
            for tick in self.ticks(low):
                if tick > high:
                    break
                window.append(tick)
            found.extendleft(reversed(window))
            high = low
            width *= _GROWTH
        return list(found)


@lru_cache(maxsize=1)
def _zone_names() -> frozenset[str]:
    # "localtime" and the like mean another zone on every machine.
    return frozenset(available_timezones() - {"localtime", "Factory"})


def find_zone(name: str) -> tzinfo:
    """The IANA time zone. Raises CronError, naming similar ones."""
    if name == "UTC":
        return UTC
    if name not in _zone_names():
        folded = {known.lower(): known for known in _zone_names()}
        near = difflib.get_close_matches(name.lower()[:64], folded, n=3)
        hint = f"; did you mean {', '.join(folded[match] for match in near)}?" if near else ""
        raise CronError("time_zone", f"no such IANA time zone: {name[:64]!r}{hint}")
    return ZoneInfo(name)


def read_expression(expression: str) -> str:
    """The expression in five or six fields, checked. Raises CronError."""
    if not expression.strip():
        raise CronError("cron", "is required")
    if len(expression) > EXPRESSION_CHARACTERS:
        raise CronError("cron", f"must have at most {EXPRESSION_CHARACTERS} characters")
    full = _SHORTHANDS.get(expression.strip().lower(), expression)
    if full.lstrip().startswith("@"):
        raise CronError("cron", f"knows of the @ forms only {', '.join(_SHORTHANDS)}")
    if len(full.split()) not in (5, 6):
        raise CronError(
            "cron",
            "must have five fields (minute, hour, day of month, month, day of week), or six with "
            "seconds in front",
        )
    try:
        simulation = CronSim(full, datetime(2000, 1, 1, tzinfo=UTC))
        next(simulation)
    except (StopIteration, OverflowError):
        raise CronError("cron", f"never comes true: {expression!r}") from None
    except Exception as error:  # noqa: BLE001 - some nonsense makes the parser stumble
        reason = str(error) or "cannot be understood"
        raise CronError("cron", f"{reason[:1].lower()}{reason[1:]} in {expression!r}") from None
    return full
