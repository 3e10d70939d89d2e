"""From samples to a table and to JSON."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.table import Table

from bench.scenarios import Sample, Scenario


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
    def ratio(self) -> float:
        """The median of each sample's ratio to the yardstick measured beside it."""
        return self.median(lambda sample: sample.value / sample.plain)

    @property
    def percentiles(self) -> dict[str, float]:
        """The median of each percentile."""
        names = self.samples[0].percentiles
        return {n: statistics.median(s.percentiles[n] for s in self.samples) for n in names}

    def as_json(self) -> dict[str, Any]:
        """Medians, spread, and every sample."""
        values = [sample.value for sample in self.samples]
        return {
            "scenario": self.scenario.name,
            "title": self.scenario.title,
            "unit": self.scenario.unit,
            "tasks": self.tasks,
            "median": statistics.median(values),
            "least": min(values),
            "most": max(values),
            "plain_sql": self.median(lambda s: s.plain),
            "plain_sql_title": self.scenario.plain_title,
            "ratio": self.ratio,
            "percentiles_ms": self.percentiles,
            "samples": [asdict(sample) for sample in self.samples],
        }


def as_table(results: list[Result]) -> Table:
    """One line a scenario; CPU and WAL are per task."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("scenario", no_wrap=True)
    for column in (
        "unit",
        "median",
        "least-most",
        "plain SQL",
        "ratio",
        "server µs",
        "postgres µs",
        "load µs",
        "WAL B",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        values = [sample.value for sample in result.samples]
        number = _number(result.scenario.unit)
        table.add_row(
            result.scenario.name,
            result.scenario.unit,
            number(statistics.median(values)),
            f"{number(min(values))}-{number(max(values))}",
            number(result.median(lambda s: s.plain)),
            f"{result.ratio:.2f}",
            f"{result.median(lambda s: s.server_us):.1f}",
            f"{result.median(lambda s: s.postgres_us):.1f}",
            f"{result.median(lambda s: s.load_us):.1f}",
            f"{result.median(lambda s: s.wal_bytes):.0f}",
        )
    return table


def percentile_line(result: Result) -> str:
    """The latencies in one line."""
    parts = [f"{name} {value:.2f}" for name, value in result.percentiles.items()]
    return f"{result.scenario.name}, ms: " + ", ".join(parts)


def _number(unit: str) -> Callable[[float], str]:
    def write(value: float) -> str:
        return f"{value:.2f}" if unit == "ms" else f"{value:,.0f}"

    return write
