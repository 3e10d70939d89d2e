"""What travels between the rules and the statements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(slots=True, frozen=True)
class Lane:
    """A queue, a kind and a priority: what shares one line."""

    lane_id: int
    queue: str
    kind: str
    priority: int


@dataclass(slots=True)
class NewTasks:
    """A batch of tasks to store; the lists run in parallel."""

    ids: list[bytes] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    spec_nos: list[int] = field(default_factory=list)
    specs: list[dict[str, object]] = field(default_factory=list)
    # Whether ids came from clients, and so may be repeats of finished tasks.
    client_ids: bool = False


class Woken(NamedTuple):
    """Where tasks may have become available."""

    # (lane id, first position) pairs.
    lanes: Sequence[tuple[int, int]] = ()
    # Queues whose limits have room again.
    queues: Sequence[str] = ()
    # Milliseconds until the first task that was put off is due.
    due_in_ms: float | None = None


class Stored(NamedTuple):
    """The answer to NewTasks."""

    stored_at: int
    existed: frozenset[bytes]
    woken: Woken
    grants: list[GrantRun]


class Answered(NamedTuple):
    """The answer to a batch of acks or nacks."""

    # Places (from 0) of tokens that were not live leases.
    lost: frozenset[int]
    woken: Woken


class GrantRequest(NamedTuple):
    """Demand of workers that share lanes and lease duration; see grant_leases."""

    lanes: list[int]
    cursors: list[int]
    workers: list[str]
    # The most tasks to grant.
    wanted: int
    # places[i] is the index into workers of the one that gets the i-th task; None: all the first.
    places: list[int] | None
    lease_ms: int | None


class GrantRun(NamedTuple):
    """Leases granted together whose tasks differ in token and payload only; see grant_runs.

    The elements of ``tokens``, ``payloads`` and ``concurrency_keys`` belong together, in the order
    of lease ids. Arguments, metadata and checkpoint are those of a run of one task.
    """

    request: int
    place: int
    lane_id: int
    attempt: int
    max_attempts: int
    timeout_ms: int
    lease_ms: int
    created_at: int
    first_position: int
    last_position: int
    tokens: list[bytes]
    # None: enqueued by SQL; ``args`` are to be converted.
    payloads: list[bytes | None]
    concurrency_keys: list[str] | None
    args: dict[str, Any] | None
    metadata: dict[str, str] | None
    checkpoint: bytes | None

    @property
    def payload_bytes(self) -> int:
        """The size of all payloads."""
        return sum(map(len, filter(None, self.payloads)))

    def only(self, places: Sequence[int]) -> GrantRun:
        """The run of the leases in these places."""
        keys = self.concurrency_keys
        return self._replace(
            tokens=[self.tokens[place] for place in places],
            payloads=[self.payloads[place] for place in places],
            concurrency_keys=None if keys is None else [keys[place] for place in places],
        )


class Return(NamedTuple):
    """A task that comes back from its worker."""

    token: bytes
    # "fail", "release" or "snooze"
    action: str
    error: dict[str, str] | None = None
    # Wait before the next attempt; for a snooze its length. None: the backoff.
    retry_ms: int | None = None
    permanent: bool = False


class Prolongation(NamedTuple):
    """A heartbeat."""

    token: bytes
    progress: float | None = None
    message: str | None = None
    checkpoint: bytes | None = None


class LiveLease(NamedTuple):
    """A lease that is alive."""

    token: bytes
    expires_at: int
    lane_id: int
    worker_id: str


class Expired(NamedTuple):
    """Leases that the clocks ended."""

    tokens: Sequence[bytes]
    timed_out: Sequence[bool]
    woken: Woken


class QueueLimits(NamedTuple):
    """What restrains a queue."""

    per_worker: int | None
    total: int | None
    paused: bool


class LanePlace(NamedTuple):
    """How far a server has read a lane, and where its next look behind that begins."""

    lane_id: int
    cursor: int
    start: int


class SweptLane(NamedTuple):
    """What a bounded look at a lane found; see sweep_lanes."""

    lane: Lane
    # The first available position after the cursor.
    ahead: int | None
    # How far the look came that found nothing there, if there is more to look at.
    passed: int | None
    # The first available position up to the cursor.
    behind: int | None
    next_start: int
