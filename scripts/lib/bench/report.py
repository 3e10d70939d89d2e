"""From samples to a table and to JSON."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table

from bench.model import Cost, Result

_VALUES = ("unit", "ratio", "least-most", "median", "beside")
# CPU per task says on any machine, however busy, what a core can do at most.
_COSTS = ("server µs", "postgres µs", "load µs", "WAL B")


def as_json(result: Result) -> dict[str, Any]:
    """Medians, spread, and every sample."""
    scenario = result.scenario
    return {
        "scenario": scenario.name,
        "group": scenario.group,
        "title": scenario.title,
        "unit": scenario.unit,
        "less_is_better": scenario.less_is_better,
        "tasks": result.tasks,
        "ratio": result.ratio,
        "ratios": [sample.ratio for sample in result.samples],
        "median": statistics.median(result.values),
        "least": min(result.values),
        "most": max(result.values),
        "beside": result.median(lambda sample: sample.beside.value),
        "beside_title": scenario.beside,
        "details": result.details,
        "samples": [asdict(sample) for sample in result.samples],
    }


def as_table(results: list[Result]) -> Table:
    """One line a scenario: its ratio to what was measured beside it, its value, CPU per task."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("scenario", no_wrap=True)
    for column in (*_VALUES, *_COSTS):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        number = _number(result.scenario.unit)
        least, most = result.ratios
        table.add_row(
            result.scenario.name,
            result.scenario.unit,
            f"{result.ratio:.2f}",
            f"{least:.2f}-{most:.2f}",
            number(statistics.median(result.values)),
            number(result.median(lambda sample: sample.beside.value)),
            _cost(result, lambda cost: cost.server_us),
            _cost(result, lambda cost: cost.postgres_us),
            _cost(result, lambda cost: cost.load_us),
            _cost(result, lambda cost: cost.wal_bytes, 0),
        )
    return table


def further_lines(result: Result) -> list[str]:
    """What does not fit the table: percentiles and other details, and each process's CPU."""
    lines = []
    if result.details:
        parts = [f"{name} {value:,.2f}" for name, value in result.details.items()]
        lines.append(f"{result.scenario.name}: " + ", ".join(parts))
    costs = result.costs
    if costs and len(costs[0].server_shares) > 1:
        shares = zip(*(cost.server_shares for cost in costs), strict=True)
        parts = [f"{statistics.median(share):.0%}" for share in shares]
        lines.append(f"{result.scenario.name}: of a core, each server process: " + ", ".join(parts))
    return lines


def _cost(result: Result, read: Callable[[Cost], float], places: int = 1) -> str:
    costs = result.costs
    return f"{statistics.median(map(read, costs)):,.{places}f}" if costs else ""


def _number(unit: str) -> Callable[[float], str]:
    def write(value: float) -> str:
        return f"{value:,.2f}" if unit == "ms" else f"{value:,.0f}"

    return write
