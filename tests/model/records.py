"""What the model of the contract is made of: requests, tasks, leases, queues.

Times are microseconds since the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SECOND = 1_000_000
FINAL = ("succeeded", "dead", "cancelled", "expired")


@dataclass(frozen=True)
class Unique:
    """The option of that name."""

    by_args: bool
    by_queue: bool
    period: int | None
    counts_in: frozenset[str]
    fail: bool


@dataclass(frozen=True)
class Ask:
    """A request to enqueue."""

    task_id: str
    queue: str
    kind: str = "runFinished"
    payload: str = "x"
    priority: int = 0
    max_attempts: int = 3
    timeout: int = 60 * SECOND
    lease: int = 5 * SECOND
    # A time of its own, or None: now.
    run_at: int | None = None
    expire_at: int | None = None
    key: str = ""
    key_limit: int = 1
    job_key: str = ""
    mode: str = "replace"
    unique: Unique | None = None

    @property
    def keyed(self) -> bool:
        """Whether other tasks decide what becomes of it."""
        return bool(self.job_key) or self.unique is not None

    def unique_key(self, run_at: int) -> tuple[object, ...] | None:
        """Equal for tasks that are the same."""
        if self.unique is None:
            return None
        period = self.unique.period
        return (
            self.kind,
            self.payload if self.unique.by_args else None,
            self.queue if self.unique.by_queue else None,
            (period, run_at // period) if period is not None else None,
        )


@dataclass
class Lease:
    """A live lease."""

    token: bytes
    worker: str
    duration: int
    expires: int
    deadline: int
    # The stream that holds it; None: nobody that is connected.
    stream: int | None = None


@dataclass
class Task:
    """A task, live or finished."""

    ask: Ask
    created_at: int
    run_at: int
    position: tuple[int, int]
    state: str = ""
    job_key: str = ""
    priority: int = 0
    max_attempts: int = 0
    expire_at: int | None = None
    attempt: int = 0
    behind: str | None = None
    unique_key: tuple[object, ...] | None = None
    lease: Lease | None = None
    # (number, worker, outcome) of each attempt that is over.
    attempts: list[tuple[int, str, str]] = field(default_factory=list)
    worker: str = ""
    started_at: int | None = None
    finished_at: int | None = None
    error: str = ""
    checkpoint: str = ""
    progress: float | None = None
    result: str = ""

    @property
    def task_id(self) -> str:
        return self.ask.task_id

    @property
    def live(self) -> bool:
        return self.state not in FINAL

    @property
    def waits(self) -> bool:
        """Blocked by its concurrency key, not by a lease that it is behind."""
        return self.state == "blocked" and self.behind is None

    def in_time(self, now: int) -> bool:
        """Whether it may still start."""
        return self.expire_at is None or self.expire_at > now or self.attempt > 0


@dataclass
class Queue:
    """A queue's settings; 0: no limit."""

    paused: bool = False
    total: int = 0
    per_worker: int = 0


class Refused(Exception):
    """The refusal's reason in the contract."""
