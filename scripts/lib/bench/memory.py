"""What the server keeps in memory, and what the database writes for a task."""

from __future__ import annotations

import threading
import time

from bench import plain_sql
from bench.model import Measure, Measured, Plan
from bench.running import held, order_for, run
from bench.stage import Stage

_STREAMS = 1_000
_SETTLE_SECONDS = 3.0
_LOOK_SECONDS = 0.2


def at_rest(stage: Stage, _plan: Plan, _queue: str) -> Measured:
    """Of the largest process, now."""
    return Measured(stage.resident_mb())


def with_streams(stage: Stage, plan: Plan, queue: str) -> Measured:
    """With workers that wait."""
    with held([("idle", order_for(stage, plan, queue, streams=_STREAMS))]):
        time.sleep(_SETTLE_SECONDS)
        return Measured(stage.resident_mb())


class _Watch:
    """Looks at the memory while something runs."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.looks: list[float] = []

    def _look(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            self.looks.append(self._stage.resident_mb())

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def at_speed(stage: Stage, plan: Plan, queue: str) -> Measured:
    """A producer and a worker at once, again and again for so many minutes, at least once."""
    until = time.monotonic() + plan.minutes * 60
    rounds: list[float] = []
    while not rounds or time.monotonic() < until:
        order = order_for(stage, plan, f"{queue}-{len(rounds)}", in_flight=2)
        with _Watch(stage) as watch:
            run(stage, [("drain", order), ("batch", order)])
        rounds.append(max(watch.looks, default=stage.resident_mb()))
    details = {"first round": rounds[0], "last round": rounds[-1], "rounds": float(len(rounds))}
    return Measured(max(rounds), details=details)


def written_for_mix(mix: Measure) -> Measure:
    """WAL for tasks that are enqueued and finished, with commits and dead rows as details."""

    def measure(stage: Stage, plan: Plan, queue: str) -> Measured:
        before = stage.writes()
        cost = mix(stage, plan, queue).cost
        after = stage.writes()
        updates = max(after.updates - before.updates, 1)
        details = {
            "commits per 1,000 tasks": (after.commits - before.commits) * 1000 / plan.tasks,
            "dead rows per task": (after.dead - before.dead) / plan.tasks,
            "in-place updates, %": (after.hot - before.hot) * 100 / updates,
        }
        return Measured((after.wal - before.wal) / plan.tasks, cost, details)

    return measure


def written_for_plain_sql(stage: Stage, plan: Plan, _queue: str) -> Measured:
    """WAL for the same in plain SQL."""
    plain_sql.prepare(stage.dsn)
    stage.settle()
    before = stage.usage()
    plain_sql.cycle_batches(stage.dsn, plan.tasks)
    used = stage.usage().since(before)
    return Measured(used.wal / plan.tasks)
