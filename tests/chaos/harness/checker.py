"""What must hold whatever was done to the system: a pure function over history and database.

Each check is one invariant, and each is shown to fail on a history that breaks it in
tests/unit/test_chaos_checker.py.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

from tests.chaos.harness.history import Event


class Invariant(StrEnum):
    """The promises, by name."""

    ENQUEUE = "an acknowledged enqueue is exactly one task"
    LEASE = "a task has at most one live lease, and tokens are strictly newer"
    STALE = "a stale token changes nothing"
    TERMINAL = "a finished task stays as it is"
    ATTEMPTS = "attempts never exceed the maximum"
    LIMITS = "limits and keys are never exceeded"
    DRAINED = "after faults heal and a drain, nothing is leased, blocked, available or waiting"
    TICKS = "one task per tick of a schedule"
    STATISTICS = "statistics equal the truth"
    ERRORS = "a retrying client hears of no error that is not its own"
    ALIVE = "no process ends by itself"


@dataclass(frozen=True)
class Violation:
    """A broken promise and what shows it."""

    invariant: Invariant
    evidence: str


@dataclass(frozen=True)
class Row:
    """A task as the database has it; `lease` and `result_lease` are 0 where there is none."""

    task: str
    state: str
    attempt: int
    max_attempts: int
    lease: int = 0
    # The lease that the worker whose ack was stored had: workers write it into the result.
    result_lease: int = 0
    queue: str = ""


@dataclass(frozen=True)
class Attempt:
    """A recorded attempt that did not finish its task."""

    task: str
    lease: int
    attempt: int


@dataclass(frozen=True)
class Truth:
    """The database at the end of an episode."""

    live: Sequence[Row] = ()
    finished: Sequence[Row] = ()
    attempts: Sequence[Attempt] = ()
    # Tasks by queue and state, as the statistics tell and as a count tells.
    told: dict[tuple[str, str], int] = field(default_factory=dict)
    counted: dict[tuple[str, str], int] = field(default_factory=dict)
    # Schedule and tick (seconds) of every task that a schedule made, and seconds between ticks.
    ticks: Sequence[tuple[str, int]] = ()
    tick_seconds: int = 1
    # Queues that are limited over all workers, and per worker.
    limits: dict[str, int] = field(default_factory=dict)
    worker_limits: dict[str, int] = field(default_factory=dict)


class Evidence:
    """History and database, arranged once for all checks."""

    def __init__(self, history: Sequence[Event], truth: Truth) -> None:
        self.history = history
        self.truth = truth
        self.by_event: dict[str, list[Event]] = defaultdict(list)
        for event in history:
            self.by_event[event.event].append(event)
        self.rows: dict[str, list[Row]] = defaultdict(list)
        for row in (*truth.live, *truth.finished):
            self.rows[row.task].append(row)
        # When the first worker had each lease, by task and lease.
        self.starts: dict[str, dict[int, Event]] = defaultdict(dict)
        for event in self.by_event["start"]:
            self.starts[event["task"]].setdefault(event["lease"], event)
        self.answers: dict[str, list[Event]] = defaultdict(list)
        for event in self.by_event["answer"]:
            self.answers[event["task"]].append(event)


def check(history: Sequence[Event], truth: Truth) -> list[Violation]:
    """Every violation, in the order of the invariants."""
    evidence = Evidence(history, truth)
    return [
        Violation(invariant, text) for invariant, find in CHECKS.items() for text in find(evidence)
    ]


def _enqueue(evidence: Evidence) -> Iterator[str]:
    sent = {event["task"] for event in evidence.by_event["enqueue"]}
    acknowledged = {event["task"] for event in evidence.by_event["acknowledged"]}
    for task in sorted(acknowledged):
        found = len(evidence.rows.get(task, ()))
        if found != 1:
            yield f"task {task} was acknowledged and is there {found} times"
    for task, rows in evidence.rows.items():
        if task in sent and task not in acknowledged and len(rows) > 1:
            yield f"task {task} was sent and is there {len(rows)} times"


def _lease(evidence: Evidence) -> Iterator[str]:
    owners: dict[tuple[str, int], str] = {}
    for event in evidence.by_event["start"]:
        lease = (event["task"], event["lease"])
        if owners.setdefault(lease, event.by) != event.by:
            yield f"lease {lease} was given to {owners[lease]} and to {event.by}"
    for task, starts in evidence.starts.items():
        ordered = sorted(starts.items())
        for (old, earlier), (new, later) in pairwise(ordered):
            if later["attempt"] < earlier["attempt"]:
                yield (
                    f"task {task}: lease {new} is attempt {later['attempt']}, "
                    f"the older lease {old} was attempt {earlier['attempt']}"
                )
    for task, intervals in _certain(evidence, lambda event: event["task"]).items():
        if _most(intervals) > 1:
            yield f"task {task} was held under {_most(intervals)} live leases at one moment"


def _stale(evidence: Evidence) -> Iterator[str]:
    for task, answers in evidence.answers.items():
        for answer in answers:
            newer = [
                event
                for lease, event in evidence.starts.get(task, {}).items()
                if lease > answer["lease"] and event.at < answer["asked"]
            ]
            if answer["outcome"] == "ok" and newer:
                yield (
                    f"task {task}: {answer['operation']} of lease {answer['lease']} was accepted "
                    f"although lease {newer[0]['lease']} had begun before it was sent"
                )
    for row in evidence.truth.finished:
        outcomes = {
            answer["outcome"]
            for answer in evidence.answers.get(row.task, ())
            if answer["lease"] == row.lease and answer["operation"] == "ack"
        }
        if row.state == "succeeded" and "lost" in outcomes:
            yield f"task {row.task} was finished by lease {row.lease}, whose worker was refused"
        if row.result_lease and row.result_lease != row.lease:
            yield (
                f"task {row.task} was finished by lease {row.lease} and has the result of lease "
                f"{row.result_lease}"
            )


def _terminal(evidence: Evidence) -> Iterator[str]:
    final = {row.task: row for row in evidence.truth.finished}
    for task, answers in evidence.answers.items():
        for answer in answers:
            if answer["operation"] != "ack" or answer["outcome"] != "ok":
                continue
            row = final.get(task)
            if row is None or row.state != "succeeded" or row.lease != answer["lease"]:
                yield f"task {task}: the ack of lease {answer['lease']} was accepted; now: {row}"
            for lease, start in evidence.starts.get(task, {}).items():
                if start.at > answer.at and lease > answer["lease"]:
                    yield f"task {task} was finished and leased again as {lease}"
    for sample in evidence.by_event["sample"]:
        for task, state in sample["finished"].items():
            now = final[task].state if task in final else "not finished"
            if now != state:
                yield f"task {task} was {state} and is {now}"


def _attempts(evidence: Evidence) -> Iterator[str]:
    for rows in evidence.rows.values():
        for row in rows:
            if row.attempt > row.max_attempts:
                yield f"task {row.task} is at attempt {row.attempt} of {row.max_attempts}"
    for event in evidence.by_event["start"]:
        if event["attempt"] > event["max_attempts"]:
            yield (
                f"task {event['task']} was given out as attempt {event['attempt']} "
                f"of {event['max_attempts']}"
            )
    charged = Counter((attempt.task, attempt.attempt) for attempt in evidence.truth.attempts)
    for (task, number), times in charged.items():
        if times > 1:
            yield f"task {task} has {times} attempts numbered {number}"


def _limits(evidence: Evidence) -> Iterator[str]:
    for sample in evidence.by_event["sample"]:
        for text in sample["over"]:
            yield f"the database had {text}"
    key_limits = {e["key"]: e["key_limit"] for e in evidence.by_event["enqueue"] if e["key"]}
    for key, intervals in _certain(evidence, lambda event: event["key"]).items():
        if key and _most(intervals) > key_limits.get(key, len(intervals)):
            yield f"key {key} had {_most(intervals)} live leases at one moment"
    for queue, intervals in _certain(evidence, lambda event: event["queue"]).items():
        if _most(intervals) > evidence.truth.limits.get(queue, len(intervals)):
            yield f"queue {queue} had {_most(intervals)} live leases at one moment"
    by_worker = _certain(evidence, lambda event: f"{event['queue']} of {event.by}")
    for name, intervals in by_worker.items():
        limit = evidence.truth.worker_limits.get(name.partition(" ")[0], len(intervals))
        if _most(intervals) > limit:
            yield f"queue {name} had {_most(intervals)} live leases at one moment"


def _drained(evidence: Evidence) -> Iterator[str]:
    for state, count in Counter(row.state for row in evidence.truth.live).items():
        example = next(row for row in evidence.truth.live if row.state == state)
        yield f"{count} tasks are {state}, such as {example}"


def _ticks(evidence: Evidence) -> Iterator[str]:
    ticks = Counter(evidence.truth.ticks)
    for (schedule, tick), times in ticks.items():
        if times > 1:
            yield f"schedule {schedule} made {times} tasks at tick {tick}"
    by_schedule: dict[str, list[int]] = defaultdict(list)
    for schedule, tick in sorted(ticks):
        by_schedule[schedule].append(tick)
    for schedule, made in by_schedule.items():
        for earlier, later in pairwise(made):
            if later - earlier != evidence.truth.tick_seconds:
                yield f"schedule {schedule} made no task between ticks {earlier} and {later}"


def _statistics(evidence: Evidence) -> Iterator[str]:
    told, counted = evidence.truth.told, evidence.truth.counted
    for place in sorted(told.keys() | counted.keys()):
        if told.get(place, 0) != counted.get(place, 0):
            yield (
                f"queue {place[0]} has {counted.get(place, 0)} {place[1]} tasks, "
                f"the statistics say {told.get(place, 0)}"
            )


def _errors(evidence: Evidence) -> Iterator[str]:
    for event in evidence.by_event["error"]:
        yield f"{event.by} heard of {event['call']}: {event['code']} {event['text']}"


def _alive(evidence: Evidence) -> Iterator[str]:
    for event in evidence.by_event["process"]:
        if event["phase"] == "ended by itself":
            yield f"{event['process']} ended with code {event['code']}: {event['text']}"


def _certain(evidence: Evidence, group: Callable[[Event], str]) -> dict[str, list[tuple[int, int]]]:
    """Times in which leases were certainly alive, by the group of their start.

    A lease lives from its grant (before its worker has it) to its end. If an answer was accepted,
    it was alive until that answer was sent: in between nothing can have ended and revived it.
    """
    ends: dict[int, int] = {}
    for answers in evidence.answers.values():
        for answer in answers:
            if answer["outcome"] == "ok":
                ends[answer["lease"]] = max(ends.get(answer["lease"], 0), _proof(answer))
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for starts in evidence.starts.values():
        for lease, start in starts.items():
            if ends.get(lease, 0) > start.at:
                found[group(start)].append((start.at, ends[lease]))
    return found


def _proof(answer: Event) -> int:
    # A repeated ack is answered OK after the lease's end, so it proves nothing.
    return 0 if answer.data.get("repeated") else int(answer["asked"])


def _most(intervals: Sequence[tuple[int, int]]) -> int:
    steps = sorted([(begin, 1) for begin, _ in intervals] + [(end, -1) for _, end in intervals])
    most = now = 0
    for _, step in steps:
        now += step
        most = max(most, now)
    return most


CHECKS: dict[Invariant, Callable[[Evidence], Iterator[str]]] = {
    Invariant.ENQUEUE: _enqueue,
    Invariant.LEASE: _lease,
    Invariant.STALE: _stale,
    Invariant.TERMINAL: _terminal,
    Invariant.ATTEMPTS: _attempts,
    Invariant.LIMITS: _limits,
    Invariant.DRAINED: _drained,
    Invariant.TICKS: _ticks,
    Invariant.STATISTICS: _statistics,
    Invariant.ERRORS: _errors,
    Invariant.ALIVE: _alive,
}
