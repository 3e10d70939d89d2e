"""What queues hold and how they move, without counting tasks.

Every change of a task's state is written down as a flow in the transaction that makes it. This duty
folds flows into sums; reading adds the sums and the flows not folded yet, in one snapshot.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

from workerqueue_server.store.reads import ReadStore

_FOLD = 20_000
_FOLD_SECONDS = 5.0
# Folding may use at most this share of the time: an old transaction keeps vacuum from removing the
# flows that are folded already, and then each pass reads over them.
_FOLD_SHARE = 0.05


@dataclass(slots=True)
class QueueFigures:
    """One queue's figures."""

    # Tasks by state, and the same by kind.
    states: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    kinds: dict[str, dict[str, int]] = field(default_factory=dict)
    # How long the oldest available task could have run already; None: none is available.
    oldest_available_ms: int | None = None
    # Moves per second by name: enqueued, started, succeeded, retried, died, dropped.
    last_minute: dict[str, float] = field(default_factory=dict)
    last_hour: dict[str, float] = field(default_factory=dict)


class Statistics:
    """Reads and maintains the figures. Every method raises StoreError."""

    def __init__(self, reads: ReadStore) -> None:
        self._reads = reads

    async def figures(self, queues: Sequence[str]) -> dict[str, QueueFigures]:
        """The figures of these queues."""
        found = await self.depths(queues)
        if not found:
            return found
        for row in await self._reads.fetch("count_moves", {"queues": list(queues)}):
            figures = found[row["queue"]]
            figures.last_minute[row["move"]] = row["last_minute"]
            figures.last_hour[row["move"]] = row["last_hour"]
        return found

    async def depths(self, queues: Sequence[str]) -> dict[str, QueueFigures]:
        """The figures of these queues without the moves."""
        found = {queue: QueueFigures() for queue in queues}
        if not found:
            return found
        parameters = {"queues": list(queues)}
        for row in await self._reads.fetch("count_tasks", parameters):
            figures, kind, state = found[row["queue"]], row["kind"], row["state"]
            figures.states[state] += row["n"]
            figures.kinds.setdefault(kind, {})[state] = row["n"]
        for row in await self._reads.fetch("oldest_available", parameters):
            found[row["queue"]].oldest_available_ms = max(0, row["age_ms"])
        return found

    async def fold(self) -> float:
        """Folds what has come since; seconds until the next time."""
        started = monotonic()
        (row,) = await self._reads.fetch("fold_flows", {"limit": _FOLD})
        if row["folded"] == _FOLD:
            return 0
        return max(_FOLD_SECONDS, (monotonic() - started) / _FOLD_SHARE)
