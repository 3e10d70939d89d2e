"""What an episode was: faults, tasks, how long each fault's recovery took, violations."""

from __future__ import annotations

import json
import statistics
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.chaos.harness.checker import Violation
from tests.chaos.harness.history import Event

_SECOND = 1_000_000_000
_BEFORE_SECONDS = 4
_SHARE = 0.9
_SHOWN = 12


@dataclass
class Figures:
    """Counts of one episode."""

    seconds: float = 0.0
    enqueued: int = 0
    acknowledged: int = 0
    leases: int = 0
    finished: int = 0
    refused_as_stale: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    # Seconds from a lone fault's end to the rate before it, by fault.
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def measure(history: Sequence[Event]) -> Figures:
    """Counts what the history has."""
    figures = Figures()
    if not history:
        return figures
    answers = [event for event in history if event.event == "answer"]
    acks = [e.at for e in answers if e["operation"] == "ack" and e["outcome"] == "ok"]
    figures.seconds = (history[-1].at - history[0].at) / _SECOND
    figures.enqueued = sum(event.event == "enqueue" for event in history)
    figures.acknowledged = len({e["task"] for e in history if e.event == "acknowledged"})
    figures.leases = sum(event.event == "start" for event in history)
    figures.finished = len(acks)
    figures.refused_as_stale = sum(event["outcome"] == "lost" for event in answers)
    begun: dict[str, int] = {}
    for event in history:
        if event.event == "fault":
            _count_fault(figures, event, begun, acks)
    return figures


def _count_fault(
    figures: Figures, event: Event, begun: dict[str, int], acks: Sequence[int]
) -> None:
    fault = event["fault"]
    if event["phase"] == "begin":
        begun[fault] = event.at
    elif event["phase"] == "met":
        figures.points[fault] += 1
    elif event["phase"] == "healed":
        figures.faults[fault] += 1
        if event["at_once"] == 1 and (took := _recovery(acks, begun[fault], event.at)) is not None:
            figures.recoveries[fault].append(took)


def _recovery(acks: Sequence[int], begin: int, healed: int) -> float | None:
    """From the heal to the end of the first second with (nearly) the rate before the fault."""

    def count(start: int, end: int) -> int:
        return bisect_left(acks, end) - bisect_left(acks, start)

    before = count(begin - _BEFORE_SECONDS * _SECOND, begin) / _BEFORE_SECONDS
    if before < 1:
        return None
    at = healed - _SECOND
    while acks and at < acks[-1]:
        at += _SECOND // 20
        if count(at, at + _SECOND) >= _SHARE * before:
            return max(0.0, (at + _SECOND - healed) / _SECOND)
    return None


@dataclass
class EpisodeReport:
    """One episode's outcome."""

    seed: int
    violations: list[Violation]
    figures: Figures

    def text(self) -> str:
        """For people."""
        figures = self.figures
        lines = [
            f"episode {self.seed}: {sum(figures.faults.values())} faults, "
            f"{figures.acknowledged} tasks acknowledged, {figures.finished} acks accepted, "
            f"{figures.refused_as_stale} stale answers refused, {figures.seconds:.0f} s, "
            f"{len(self.violations)} violations"
        ]
        lines += [
            f"  VIOLATED (seed {self.seed}): {v.invariant}: {v.evidence}"
            for v in self.violations[:_SHOWN]
        ]
        if len(self.violations) > _SHOWN:
            lines.append(f"  and {len(self.violations) - _SHOWN} more")
        return "\n".join(lines)


@dataclass
class Totals:
    """All episodes of a run."""

    seed: int
    episodes: list[EpisodeReport] = field(default_factory=list)

    def add(self, report: EpisodeReport) -> None:
        """Adds an episode."""
        self.episodes.append(report)

    @property
    def violations(self) -> list[tuple[int, Violation]]:
        """All, with the seeds of their episodes."""
        return [(report.seed, v) for report in self.episodes for v in report.violations]

    def faults(self) -> Counter[str]:
        """How often each fault struck."""
        return sum((report.figures.faults for report in self.episodes), Counter())

    def recoveries(self) -> dict[str, list[float]]:
        """All recoveries by fault."""
        found: dict[str, list[float]] = defaultdict(list)
        for report in self.episodes:
            for fault, times in report.figures.recoveries.items():
                found[fault] += times
        return found

    def text(self) -> str:
        """For people."""
        figures = [report.figures for report in self.episodes]
        recoveries = self.recoveries()
        lines = [
            f"seed {self.seed}: {len(self.episodes)} episodes, "
            f"{sum(f.seconds for f in figures) / 60:.1f} minutes, "
            f"{sum(self.faults().values())} faults, "
            f"{sum(f.acknowledged for f in figures)} tasks acknowledged, "
            f"{sum(f.leases for f in figures)} leases, "
            f"{sum(f.refused_as_stale for f in figures)} stale answers refused, "
            f"{len(self.violations)} violations"
        ]
        for fault, count in sorted(self.faults().items()):
            times = recoveries.get(fault, [])
            told = ""
            if times:
                middle, worst = statistics.median(times), max(times)
                told = f"recovery median {middle:.1f} s, worst {worst:.1f} s ({len(times)} alone)"
            lines.append(f"  {fault:28} {count:4}  {told}")
        lines += [
            f"  VIOLATED (seed {seed}): {found.invariant}: {found.evidence[:300]}"
            for seed, found in self.violations[: 5 * _SHOWN]
        ]
        return "\n".join(lines)

    def as_json(self) -> str:
        """For programs: one line."""
        figures = [report.figures for report in self.episodes]
        return json.dumps(
            {
                "seed": self.seed,
                "episodes": [report.seed for report in self.episodes],
                "seconds": sum(f.seconds for f in figures),
                "enqueued": sum(f.enqueued for f in figures),
                "acknowledged": sum(f.acknowledged for f in figures),
                "leases": sum(f.leases for f in figures),
                "finished": sum(f.finished for f in figures),
                "refused_as_stale": sum(f.refused_as_stale for f in figures),
                "faults": self.faults(),
                "points": sum((f.points for f in figures), Counter()),
                "recoveries": self.recoveries(),
                "violations": [
                    {"seed": s, "invariant": v.invariant, "evidence": v.evidence}
                    for s, v in self.violations
                ],
            }
        )
