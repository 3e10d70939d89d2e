"""Counters, distributions and gauges in plain memory.

The unit of work here is a batch, so a figure takes many observations in one call, which no
instrument of the OpenTelemetry API does; and recording costs the same whether anybody exports or
not: an addition to an entry of a dictionary. `app` turns figures into what exporters take.

The event loop's thread writes. Exporters read in threads of their own, so reading begins with a
copy of the dictionary, which Python makes in one step.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

# The values of a figure's attributes, in the order of their declaration.
Values = tuple[str, ...]

OTHER = "other"


class About(NamedTuple):
    """What a figure means.

    Attributes:
        name: In OpenTelemetry's form, such as `workerqueue.tasks.leased`.
        unit: In UCUM, such as `s`; in braces if it is only a word.
        description: One sentence for people.
        attributes: Names of the attributes.
    """

    name: str
    unit: str
    description: str
    attributes: tuple[str, ...]


class Counter:
    """A sum that only grows."""

    def __init__(self, about: About) -> None:
        self.about = about
        self._sums: dict[Values, float] = {}

    def add(self, amount: float, *values: str) -> None:
        """Adds to the sum of these attribute values."""
        if amount:
            self._sums[values] = self._sums.get(values, 0) + amount

    def expect(self, *values: str) -> None:
        """Shows these values from the start, so that the first event is seen as growth."""
        self._sums.setdefault(values, 0)

    def points(self) -> Mapping[Values, float]:
        """The sums so far."""
        return self._sums.copy()


class Bins(NamedTuple):
    """A distribution as exporters want it.

    Attributes:
        counts: Observations per bin; the last bin has no upper bound.
        total: The sum of what was observed.
    """

    counts: list[int]
    total: float

    def cumulative(self) -> list[int]:
        """Observations up to each bound."""
        return list(accumulate(self.counts))


class Distribution:
    """How often values fell between fixed bounds."""

    def __init__(self, about: About, bounds: Sequence[float]) -> None:
        self.about = about
        self.bounds = tuple(bounds)
        self._counts: dict[Values, list[int]] = {}
        self._totals: dict[Values, float] = {}

    def record(self, observed: float, *values: str, times: int = 1) -> None:
        """Takes a value that was observed so many times."""
        counts = self._counts.get(values)
        if counts is None:
            self._totals[values] = 0.0
            counts = self._counts[values] = [0] * (len(self.bounds) + 1)
        counts[bisect_left(self.bounds, observed)] += times
        self._totals[values] += observed * times

    def points(self) -> Mapping[Values, Bins]:
        """The distributions so far."""
        return {
            values: Bins(counts.copy(), self._totals[values])
            for values, counts in self._counts.copy().items()
        }


class Gauge:
    """A value of now; asked for when it is exported."""

    def __init__(self, about: About) -> None:
        self.about = about
        self._read: Callable[[], Mapping[Values, float]] = dict

    def ask(self, read: Callable[[], Mapping[Values, float]]) -> None:
        """Sets who knows the values. Called from exporters' threads."""
        self._read = read

    def points(self) -> Mapping[Values, float]:
        """The values now."""
        return self._read()


Figure = Counter | Distribution | Gauge


class Bounded:
    """Keeps the number of attribute values small: the first come keep their names.

    Queues are made by whoever names them, so without a bound a producer could fill an exporter's
    memory.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[Values, Values] = {}

    def __call__(self, *names: str) -> Values:
        """The names, or as many times `other` once there are too many."""
        known = self._known.get(names)
        if known is None:
            if len(self._known) >= self._limit:
                return (OTHER,) * len(names)
            known = self._known[names] = names
        return known


def largest(points: Mapping[Values, float], limit: int) -> dict[Values, float]:
    """The points whose first attributes have the largest sums; the rest together as `other`."""
    sums: dict[str, float] = {}
    for values, value in points.items():
        sums[values[0]] = sums.get(values[0], 0) + value
    kept = set(sorted(sums, key=sums.__getitem__, reverse=True)[:limit])
    found: dict[Values, float] = {}
    for values, value in points.items():
        name = values if values[0] in kept else (OTHER, *values[1:])
        found[name] = found.get(name, 0) + value
    return found
