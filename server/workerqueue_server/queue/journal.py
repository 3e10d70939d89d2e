"""Writes down what becomes of tasks. Told by those who do it, once a batch, after the commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING

from workerqueue_server.queue import task_lines
from workerqueue_server.queue.sessions import Holding
from workerqueue_server.store.records import GrantRun, Lane
from workerqueue_server.telemetry import instruments
from workerqueue_server.telemetry.figures import Values
from workerqueue_server.telemetry.instruments import UNKNOWN, lane_names
from workerqueue_server.telemetry.trace_context import trace_id

if TYPE_CHECKING:
    from workerqueue_server.queue.enqueue import EnqueueResult, NewTask, Spec
    from workerqueue_server.queue.tracing import Tracing

_SAMPLES_PER_GRANT = 8
_MAX_TOLD = 100_000


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
    """Turns events into figures; into lines and spans too, where somebody wants them."""

    def __init__(self) -> None:
        # Set while somebody wants to know how long tasks wait.
        self.waits: WaitSample | None = None
        self.tracing: Tracing | None = None
        self._lines = task_lines.wanted()
        # What lines tell of leases that were granted here.
        self._told: dict[bytes, dict[str, object]] = {}

    @property
    def is_detailed(self) -> bool:
        """Whether single tasks are of interest, which costs work for each."""
        return self._lines or self.tracing is not None

    def created(
        self, tasks: Sequence[NewTask], specs: Sequence[Spec], spec_nos: Sequence[int]
    ) -> None:
        """New tasks; ``spec_nos`` tells each one's spec."""
        counts = {0: len(spec_nos)} if len(specs) == 1 else Counter(spec_nos)
        for number, count in counts.items():
            spec = specs[number]
            instruments.ENQUEUED.add(count, *lane_names(spec.queue, spec.kind), "created")
        if self._lines:
            for task in tasks:
                _tell_enqueued(task, "created")

    def enqueued(self, tasks: Sequence[NewTask], results: Sequence[EnqueueResult | None]) -> None:
        """Tasks with what became of each; None: nothing yet."""
        counts: Counter[tuple[Spec, str]] = Counter()
        for task, result in zip(tasks, results, strict=True):
            if result is not None:
                outcome = "refused" if result.error is not None else result.outcome.name.lower()
                counts[task.spec, outcome] += 1
                if self._lines:
                    _tell_enqueued(task, outcome)
        for (spec, outcome), count in counts.items():
            instruments.ENQUEUED.add(count, *lane_names(spec.queue, spec.kind), outcome)

    def leased(self, lane: Lane, tokens: Sequence[bytes]) -> None:
        """Leases granted in one lane."""
        names = lane_names(lane.queue, lane.kind)
        instruments.LEASED.add(len(tokens), *names)
        if self.waits is not None:
            self.waits.add(names, tokens)

    def granted(self, worker_id: str, lane: Lane, run: GrantRun) -> None:
        """Leases that go to one worker. Told only if `is_detailed`."""
        if self.tracing is not None:
            self.tracing.granted(worker_id, lane, run)
        if not self._lines:
            return
        fields: dict[str, object] = {
            "queue": lane.queue,
            "kind": lane.kind,
            "attempt": run.attempt,
            "worker_id": worker_id,
            "trace_id": trace_id(run.metadata),
        }
        for token in run.tokens:
            self._told[token] = fields
            task_lines.tell("leased", token, **fields)
        while len(self._told) > _MAX_TOLD:
            del self._told[next(iter(self._told))]

    def ended(self, outcome: str, tokens: Collection[bytes], counts: Mapping[Holding, int]) -> None:
        """Leases ended; ``counts`` tells of those among them that this server knows."""
        now = monotonic()
        for holding, count in counts.items():
            names = lane_names(holding.queue, holding.kind)
            instruments.ENDED.add(count, *names, outcome)
            if holding.granted_at is not None:
                instruments.RUN.record(now - holding.granted_at, *names, times=count)
        unknown = len(tokens) - sum(counts.values())
        if unknown > 0:
            instruments.ENDED.add(unknown, UNKNOWN, UNKNOWN, outcome)
        if self.is_detailed:
            self._close(outcome, tokens)

    def ended_elsewhere(self, outcome: str, token: bytes, queue: str, kind: str) -> None:
        """This server ended the lease of a worker that another server knows."""
        instruments.ENDED.add(1, *lane_names(queue, kind), outcome)
        if self._lines:
            task_lines.tell(outcome, token, queue=queue, kind=kind)

    def ended_by_others(self, tokens: Collection[bytes]) -> None:
        """Leases that were granted here ended through another server, which counted them."""
        if self.tracing is not None:
            self.tracing.ended("unknown", tokens)
        for token in tokens:
            self._told.pop(token, None)

    def stale(self, operation: str, count: int) -> None:
        """Answers refused because their lease was over."""
        instruments.STALE.add(count, operation)

    def _close(self, outcome: str, tokens: Collection[bytes]) -> None:
        if self.tracing is not None:
            self.tracing.ended(outcome, tokens)
        if self._lines:
            for token in tokens:
                fields = self._told.pop(token, {})
                # Whoever cancelled the task has told it.
                if outcome != "cancelled":
                    task_lines.tell(outcome, token, **fields)


def _tell_enqueued(task: NewTask, outcome: str) -> None:
    metadata = task.spec.fields.get("metadata")
    task_lines.tell(
        "enqueued" if outcome == "created" else f"enqueue {outcome}",
        task.task_id,
        queue=task.spec.queue,
        kind=task.spec.kind,
        trace_id=trace_id(metadata) if isinstance(metadata, dict) else None,
    )
