"""What a measurement is made of."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Literal

from bench.stage import Stage

# Tasks are counted in whole batches of this size.
BATCH = 1_000

Group = Literal["throughput", "latency", "flat", "memory", "scale"]


@dataclass(frozen=True)
class Plan:
    """How much is done in one measurement."""

    tasks: int
    window: int
    in_flight: int | None = None
    minutes: float = 0.0
    # Tasks present beside the measured work, where a scenario has a million of them.
    stock: int = 1_000_000


@dataclass(frozen=True)
class Cost:
    """What the measured work used: microseconds of CPU and bytes of WAL, per task."""

    server_us: float
    # Of one core, each server process by itself.
    server_shares: list[float]
    postgres_us: float
    load_us: float
    wal_bytes: float


@dataclass(frozen=True)
class Measured:
    """One measurement of one side."""

    value: float
    cost: Cost | None = None
    # More numbers by name, such as percentiles in milliseconds.
    details: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """A measurement and the one taken beside it."""

    measured: Measured
    beside: Measured

    @property
    def ratio(self) -> float:
        """Of the two values."""
        return self.measured.value / self.beside.value


Measure = Callable[[Stage, Plan, str], Measured]


@dataclass(frozen=True)
class Scenario:
    """Something to measure. Every measurement is given a queue that was never used before.

    What it is held against is either ``yardstick``, on the same stage just before, or, where there
    is a ``pressure`` or a number of ``processes``, the same measurement on a second stage without
    them, in turns.
    """

    name: str
    group: Group
    title: str
    unit: str
    beside: str
    measure: Measure
    yardstick: Measure | None = None
    pressure: Callable[[Stage, int], AbstractContextManager[None]] | None = None
    processes: int | None = None
    # What is measured on the second stage, if that is something else.
    clean: Measure | None = None
    # How many tasks one measurement is, where the number asked for would take too long.
    share: float = 1.0
    most: int | None = None
    # Whether a small value is a good one.
    less_is_better: bool = False

    @property
    def takes_turns(self) -> bool:
        """Whether it is measured on two stages."""
        return self.yardstick is None

    def sized(self, plan: Plan) -> Plan:
        """The plan with this scenario's share of the tasks, in whole batches."""
        tasks = int(plan.tasks * self.share)
        if self.most is not None:
            return replace(plan, tasks=min(tasks, self.most))
        return replace(plan, tasks=max(tasks // BATCH, 1) * BATCH)


@dataclass(frozen=True)
class Result:
    """The samples of one scenario."""

    scenario: Scenario
    tasks: int
    samples: list[Sample]

    def median(self, read: Callable[[Sample], float]) -> float:
        """The median over the samples."""
        return statistics.median(read(sample) for sample in self.samples)

    @property
    def values(self) -> list[float]:
        """The measured values."""
        return [sample.measured.value for sample in self.samples]

    @property
    def ratio(self) -> float:
        """The median of each sample's ratio to what was measured beside it."""
        return self.median(lambda sample: sample.ratio)

    @property
    def ratios(self) -> tuple[float, float]:
        """The least and the largest ratio."""
        ratios = [sample.ratio for sample in self.samples]
        return min(ratios), max(ratios)

    @property
    def costs(self) -> list[Cost]:
        """What the samples used, where that was looked at."""
        return [sample.measured.cost for sample in self.samples if sample.measured.cost]

    @property
    def details(self) -> dict[str, float]:
        """The median of each detail."""
        names = self.samples[0].measured.details
        return {
            name: statistics.median(s.measured.details[name] for s in self.samples)
            for name in names
        }
