"""What must be asked for before it can be told: depths, waits, lag. Runs only while exported."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import TYPE_CHECKING

from workerqueue_server.queue import duties
from workerqueue_server.queue.journal import WaitSample
from workerqueue_server.telemetry import instruments
from workerqueue_server.telemetry.figures import Values, largest

if TYPE_CHECKING:
    from workerqueue_server.queue.engine import Engine

_STATES = ("scheduled", "available", "blocked", "leased", "retrying", "dead")
_DEPTH_SECONDS = 5.0
# With an old transaction in the way, looking for the oldest task passes over dead rows.
_DEPTH_SHARE = 0.05
_WAIT_SECONDS = 1.0
_WAIT_SAMPLE = 100
_LAG_SECONDS = 0.25


class Observation:
    """Loops and gauges of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._depths: dict[Values, float] = {}
        self._oldest: dict[Values, float] = {}
        self._read_at: float | None = None
        engine.journal.waits = WaitSample(_WAIT_SAMPLE)
        instruments.DEPTH.ask(lambda: self._depths)
        instruments.OLDEST.ask(lambda: self._oldest)
        instruments.FIGURES_AGE.ask(self._age)
        instruments.BATCH_WAITING.ask(lambda: {(k,): v for k, v in engine.waiting().items()})
        instruments.STREAMS.ask(lambda: {(): len(engine.book.sessions)})
        instruments.WINDOW.ask(lambda: self._workers()[0])
        instruments.HELD.ask(lambda: self._workers()[1])
        instruments.POOL.ask(self._pool)
        instruments.POOL_WAITING.ask(
            lambda: {(): engine.reads.pool_figures().get("requests_waiting", 0)}
        )
        instruments.DATABASE.ask(lambda: {(): float(engine.was_healthy)})
        instruments.DUTY_LAG.ask(duties.lags)

    def loops(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """The loops to run, by name."""
        return [
            ("read depths", lambda: duties.repeat("read depths", self._read_depths)),
            ("read waits", lambda: duties.repeat("read waits", self._read_waits)),
            ("measure the event loop", self._measure_loop),
        ]

    async def _read_depths(self) -> float:
        started = monotonic()
        queues = self._engine.lanes.queues() | self._engine.catalog.queues.keys()
        figures = await self._engine.statistics.depths(sorted(queues))
        # Every queue has every live state, so that a rule on a depth of zero finds one.
        depths: dict[Values, float] = {
            (queue, state): 0.0 for queue in figures for state in _STATES
        }
        for queue, found in figures.items():
            depths.update({(queue, state): n for state, n in found.states.items()})
        self._depths = largest(depths, instruments.QUEUES)
        shown = {queue for queue, _ in self._depths}
        self._oldest = {
            (queue,): (found.oldest_available_ms or 0) / 1000
            for queue, found in figures.items()
            if queue in shown
        }
        self._read_at = monotonic()
        return max(_DEPTH_SECONDS, (self._read_at - started) / _DEPTH_SHARE)

    def _age(self) -> Mapping[Values, float]:
        return {} if self._read_at is None else {(): monotonic() - self._read_at}

    async def _read_waits(self) -> float:
        sample = self._engine.journal.waits
        assert sample is not None
        tasks, leases = sample.take()
        if tasks:
            waits = await self._engine.reads.waits(list(tasks))
            left = Counter(tasks[task_id] for task_id in waits)
            uncounted = dict(leases)
            for task_id, seconds in waits.items():
                names = tasks[task_id]
                # Each stands for a share of the leases: the counts are those of all of them.
                share = uncounted[names] // left[names]
                left[names] -= 1
                uncounted[names] -= share
                instruments.WAIT.record(seconds, *names, times=share)
        return _WAIT_SECONDS

    async def _measure_loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            expected = loop.time() + _LAG_SECONDS
            await asyncio.sleep(_LAG_SECONDS)
            instruments.LOOP_LAG.record(max(0.0, loop.time() - expected))

    def _workers(self) -> tuple[dict[Values, float], dict[Values, float]]:
        windows: Counter[str] = Counter()
        held: Counter[str] = Counter()
        for session in list(self._engine.book.sessions.values()):
            windows[session.worker_id] += session.places
            held[session.worker_id] += len(session.held)
        kept = {worker for worker, _ in held.most_common(instruments.WORKERS)}
        return _by_worker(windows, kept), _by_worker(held, kept)

    def _pool(self) -> dict[Values, float]:
        figures = self._engine.reads.pool_figures()
        idle = figures.get("pool_available", 0)
        return {("idle",): idle, ("used",): figures.get("pool_size", 0) - idle}


def _by_worker(counts: Counter[str], kept: set[str]) -> dict[Values, float]:
    found: dict[Values, float] = {}
    for worker, count in counts.items():
        name = (worker if worker in kept else "other",)
        found[name] = found.get(name, 0.0) + count
    return found
