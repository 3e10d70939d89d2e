"""Writes down what becomes of tasks. Told by those who do it, once a batch, after the commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING

from workerqueue_server.queue.sessions import Holding
from workerqueue_server.store.records import Lane
from workerqueue_server.telemetry import instruments
from workerqueue_server.telemetry.figures import Values
from workerqueue_server.telemetry.instruments import UNKNOWN, lane_names

if TYPE_CHECKING:
    from workerqueue_server.queue.enqueue import EnqueueResult, NewTask, Spec

_SAMPLES_PER_GRANT = 8


class WaitSample:
    """Some of the leases granted lately, to look up how long their tasks had waited."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._tasks: dict[bytes, Values] = {}
        self._seen: Counter[Values] = Counter()

    def add(self, names: Values, tokens: Sequence[bytes]) -> None:
        """Takes some of the leases granted in one lane."""
        self._seen[names] += len(tokens)
        room = min(self._size - len(self._tasks), _SAMPLES_PER_GRANT)
        if room > 0:
            step = -(-len(tokens) // room)
            self._tasks.update((token[:16], names) for token in tokens[::step])

    def take(self) -> tuple[dict[bytes, Values], Mapping[Values, int]]:
        """The chosen tasks, and how many leases each pair of queue and kind had; begins anew."""
        taken = self._tasks, self._seen
        self._tasks, self._seen = {}, Counter()
        return taken


class Journal:
    """Turns events into figures."""

    def __init__(self) -> None:
        # Set while somebody wants to know how long tasks wait.
        self.waits: WaitSample | None = None

    def created(self, specs: Sequence[Spec], spec_nos: Sequence[int]) -> None:
        """New tasks; ``spec_nos`` tells each one's spec."""
        counts = {0: len(spec_nos)} if len(specs) == 1 else Counter(spec_nos)
        for number, count in counts.items():
            spec = specs[number]
            instruments.ENQUEUED.add(count, *lane_names(spec.queue, spec.kind), "created")

    def enqueued(self, tasks: Sequence[NewTask], results: Sequence[EnqueueResult | None]) -> None:
        """Tasks with what became of each; None: nothing yet."""
        counts: Counter[tuple[Spec, str]] = Counter()
        for task, result in zip(tasks, results, strict=True):
            if result is not None:
                outcome = "refused" if result.error is not None else result.outcome.name.lower()
                counts[task.spec, outcome] += 1
        for (spec, outcome), count in counts.items():
            instruments.ENQUEUED.add(count, *lane_names(spec.queue, spec.kind), outcome)

    def leased(self, lane: Lane, tokens: Sequence[bytes]) -> None:
        """Leases granted in one lane."""
        names = lane_names(lane.queue, lane.kind)
        instruments.LEASED.add(len(tokens), *names)
        if self.waits is not None:
            self.waits.add(names, tokens)

    def ended(self, outcome: str, counts: Mapping[Holding, int], unknown: int = 0) -> None:
        """Leases ended: those that this server knows by their grants, and so many others."""
        now = monotonic()
        for holding, count in counts.items():
            names = lane_names(holding.queue, holding.kind)
            instruments.ENDED.add(count, *names, outcome)
            if holding.granted_at is not None:
                instruments.RUN.record(now - holding.granted_at, *names, times=count)
        if unknown:
            instruments.ENDED.add(unknown, UNKNOWN, UNKNOWN, outcome)

    def ended_elsewhere(self, outcome: str, queue: str, kind: str) -> None:
        """This server ended the lease of a worker that another server knows."""
        instruments.ENDED.add(1, *lane_names(queue, kind), outcome)

    def stale(self, operation: str, count: int) -> None:
        """Answers refused because their lease was over."""
        instruments.STALE.add(count, operation)
