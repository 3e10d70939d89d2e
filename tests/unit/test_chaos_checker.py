"""The checker of the chaos harness finds each violation, in histories that are made to have it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.harness.checker import CHECKS, Attempt, Invariant, Row, Truth, check
from tests.chaos.harness.history import Event, Recorder, read_history
from tests.chaos.harness.report import EpisodeReport, measure

Scene = tuple[list[Event], Truth]


def enqueue(task: str = "a", *, key: str = "", key_limit: int = 1, at: int = 0) -> Event:
    data = {"task": task, "queue": "wide", "key": key, "key_limit": key_limit, "max_attempts": 3}
    return Event(at, "producer", "enqueue", data)


def acknowledged(task: str = "a", at: int = 1) -> Event:
    return Event(at, "producer", "acknowledged", {"task": task, "outcome": 1})


def start(
    at: int,
    lease: int,
    *,
    task: str = "a",
    by: str = "worker-1",
    attempt: int = 1,
    key: str = "",
    queue: str = "wide",
) -> Event:
    data = {"task": task, "lease": lease, "attempt": attempt, "max_attempts": 3}
    return Event(at, by, "start", {**data, "queue": queue, "key": key})


def answer(
    at: int, lease: int, outcome: str = "ok", *, task: str = "a", asked: int = 0, **more: Any
) -> Event:
    data = {"task": task, "lease": lease, "operation": "ack", "asked": asked or at - 1}
    return Event(at, "worker-1", "answer", {**data, "outcome": outcome, "repeated": False, **more})


def done(task: str = "a", lease: int = 1, attempt: int = 1, **more: Any) -> Row:
    return Row(task, "succeeded", attempt, 3, lease, lease, **more)


def sample(over: Sequence[str] = (), **finished: str) -> Event:
    return Event(50, "observer", "sample", {"over": list(over), "finished": finished})


def good() -> Scene:
    """Two attempts of a task: the first was lost, its late ack refused; the second finished it."""
    history = [
        enqueue(),
        acknowledged(),
        start(10, 1),
        start(20, 2, by="worker-2", attempt=2),
        answer(30, 1, "lost", asked=25),
        answer(40, 2),
        answer(45, 2, repeated=True),
        sample(a="succeeded"),
    ]
    truth = Truth(
        finished=[done(lease=2, attempt=2)],
        attempts=[Attempt("a", 1, 1)],
        told={("wide", "succeeded"): 1},
        counted={("wide", "succeeded"): 1},
        ticks=[("s", 2), ("s", 4), ("s", 6)],
        tick_seconds=2,
    )
    return history, truth


def overlapping(key: str = "", queue: str = "wide", by: str = "worker-2") -> list[Event]:
    """Two tasks that were certainly held at the same moment."""
    return [
        enqueue("a", key=key),
        enqueue("b", key=key),
        start(10, 1, task="a", key=key, queue=queue),
        start(11, 2, task="b", key=key, queue=queue, by=by),
        answer(20, 1, task="a"),
        answer(21, 2, task="b"),
    ]


def two_done() -> list[Row]:
    return [done("a", 1), done("b", 2)]


BROKEN: dict[str, tuple[Invariant, Scene]] = {
    "an acknowledged task is nowhere": (
        Invariant.ENQUEUE,
        ([enqueue(), acknowledged()], Truth()),
    ),
    "an acknowledged task is there twice": (
        Invariant.ENQUEUE,
        ([enqueue(), acknowledged()], Truth(finished=[done(), done()])),
    ),
    "a task that nobody acknowledged is there twice": (
        Invariant.ENQUEUE,
        ([enqueue()], Truth(finished=[done(), done()])),
    ),
    "two workers got one lease": (
        Invariant.LEASE,
        ([start(10, 1), start(11, 1, by="worker-2")], Truth()),
    ),
    "a newer token is an older attempt": (
        Invariant.LEASE,
        ([start(10, 1, attempt=2), start(11, 2, attempt=1)], Truth()),
    ),
    "two leases were alive at once": (
        Invariant.LEASE,
        (
            [start(10, 1), start(12, 2), answer(20, 1, asked=19), answer(21, 2, asked=20)],
            Truth(finished=[done()]),
        ),
    ),
    "a stale ack was accepted": (
        Invariant.STALE,
        ([start(10, 1), start(12, 2), answer(20, 1, asked=15)], Truth(finished=[done()])),
    ),
    "a refused ack finished the task": (
        Invariant.STALE,
        ([start(10, 1), answer(20, 1, "lost")], Truth(finished=[done()])),
    ),
    "another lease's result was stored": (
        Invariant.STALE,
        ([], Truth(finished=[Row("a", "succeeded", 2, 3, 2, 1)])),
    ),
    "an accepted ack is gone": (
        Invariant.TERMINAL,
        ([start(10, 1), answer(20, 1)], Truth(live=[Row("a", "available", 1, 3)])),
    ),
    "a finished task was leased again": (
        Invariant.TERMINAL,
        ([start(10, 1), answer(20, 1), start(30, 2)], Truth(finished=[done()])),
    ),
    "a dead task lives": (
        Invariant.TERMINAL,
        ([sample(a="dead")], Truth(live=[Row("a", "available", 1, 3)])),
    ),
    "a task has more attempts than it may": (
        Invariant.ATTEMPTS,
        ([], Truth(finished=[done(attempt=4)])),
    ),
    "a worker got more attempts than there may be": (
        Invariant.ATTEMPTS,
        ([start(10, 1, attempt=4)], Truth()),
    ),
    "an attempt was charged twice": (
        Invariant.ATTEMPTS,
        ([], Truth(attempts=[Attempt("a", 1, 1), Attempt("a", 2, 1)])),
    ),
    "the database had a key over its limit": (
        Invariant.LIMITS,
        ([sample(["2 tasks that hold key k"])], Truth()),
    ),
    "workers had a key over its limit": (
        Invariant.LIMITS,
        (overlapping(key="k"), Truth(finished=two_done())),
    ),
    "workers had a queue over its limit": (
        Invariant.LIMITS,
        (overlapping(queue="narrow"), Truth(finished=two_done(), limits={"narrow": 1})),
    ),
    "a worker had a queue over its limit": (
        Invariant.LIMITS,
        (
            overlapping(queue="each", by="worker-1"),
            Truth(finished=two_done(), worker_limits={"each": 1}),
        ),
    ),
    "a task is left": (
        Invariant.DRAINED,
        ([], Truth(live=[Row("a", "blocked", 0, 3)])),
    ),
    "a tick made two tasks": (
        Invariant.TICKS,
        ([], Truth(ticks=[("s", 2), ("s", 2)], tick_seconds=2)),
    ),
    "a tick made no task": (
        Invariant.TICKS,
        ([], Truth(ticks=[("s", 2), ("s", 6)], tick_seconds=2)),
    ),
    "statistics are wrong": (
        Invariant.STATISTICS,
        ([], Truth(told={("wide", "available"): 1})),
    ),
    "a client was told of an internal error": (
        Invariant.ERRORS,
        ([Event(1, "p", "error", {"call": "Ack", "code": "INTERNAL", "text": "id"})], Truth()),
    ),
    "a server ended": (
        Invariant.ALIVE,
        (
            [
                Event(
                    1,
                    "supervisor",
                    "process",
                    {"process": "server-0", "phase": "ended by itself", "code": 1, "text": ""},
                )
            ],
            Truth(),
        ),
    ),
}


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert check(*good()) == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_violation_is_found_and_named(name: str) -> None:
    invariant, (history, truth) = BROKEN[name]
    assert invariant in {violation.invariant for violation in check(history, truth)}


def test_every_invariant_has_a_history_that_breaks_it() -> None:
    assert {invariant for invariant, _ in BROKEN.values()} == set(Invariant) == set(CHECKS)


def test_a_lease_that_is_read_late_is_no_second_live_lease() -> None:
    """A frozen worker reads its frame after another one has finished the task."""
    history = [
        start(20, 2, by="worker-2", attempt=2),
        answer(30, 2),
        start(40, 1),
        answer(50, 1, "lost"),
    ]
    truth = Truth(finished=[done(lease=2, attempt=2)])
    assert check(history, truth) == []


def test_limits_may_be_reached() -> None:
    history = overlapping(key="k", queue="narrow")
    history[:2] = [enqueue("a", key="k", key_limit=2), enqueue("b", key="k", key_limit=2)]
    assert check(history, Truth(finished=two_done(), limits={"narrow": 2})) == []


def test_a_report_prints_the_seed_and_the_invariant() -> None:
    history, truth = BROKEN["a stale ack was accepted"][1]
    text = EpisodeReport(4711, check(history, truth), measure(history)).text()
    assert "VIOLATED (seed 4711): a stale token changes nothing: task a" in text


def test_history_is_read_in_the_order_of_time(tmp_path: Path) -> None:
    one, two = Recorder(tmp_path, "one"), Recorder(tmp_path, "two")
    one.write("start", task="a")
    two.write("start", task="b")
    one.write("start", task="c")
    assert [(e.by, e["task"]) for e in read_history(tmp_path)] == [
        ("one", "a"),
        ("two", "b"),
        ("one", "c"),
    ]
    assert json.loads((tmp_path / "two.jsonl").read_text())["task"] == "b"
