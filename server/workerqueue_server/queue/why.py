"""Why a task is not running, in one sentence."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import IntEnum
from typing import NamedTuple

from workerqueue_server.queue.errors import TaskNotFound
from workerqueue_server.store.reads import FINAL_STATES, ReadStore, Record

_MANY = 1_000
_ERROR_CHARACTERS = 200


class WaitReason(IntEnum):
    """What keeps a task from running; the numbers of the proto's WaitReason."""

    RUNNING = 1
    FINISHED = 2
    SCHEDULED = 3
    RETRYING = 4
    CONCURRENCY_KEY = 5
    JOB_KEY = 6
    QUEUE_PAUSED = 7
    QUEUE_LIMIT = 8
    WORKER_LIMIT = 9
    UNKNOWN_KIND = 10
    NO_WORKER = 11
    WORKERS_DRAINING = 12
    WORKERS_BUSY = 13
    IN_LINE = 14


class Why(NamedTuple):
    """The answer."""

    state: str
    reason: WaitReason
    sentence: str
    # Tasks it waits for.
    waits_for: tuple[str, ...] = ()


async def why(reads: ReadStore, task_id: bytes) -> Why:
    """Why the task is not running. Raises TaskNotFound or StoreError."""
    record = (await reads.task_rows([task_id], full=False)).get(task_id)
    if record is None:
        text = str(uuid.UUID(bytes=task_id))
        raise TaskNotFound(f"there is no task {text}", task_id=text)
    if record["state"] in FINAL_STATES:
        return _finished(record)
    rows = await reads.fetch("what_holds", {"id": task_id.hex()})
    if not rows:
        # It has finished since it was read.
        return await why(reads, task_id)
    facts = rows[0]
    if record["state"] == "available":
        takers = await reads.fetch("who_takes", {"queue": record["queue"], "kind": record["kind"]})
        return _available(record, facts, takers)
    if record["state"] == "blocked":
        return _blocked(record, facts)
    return _dated(record, facts["now"])


def _finished(record: Record) -> Why:
    state = record["state"]
    attempts = f"attempt {record['attempt']} of {record['max_attempts']}"
    at = _time(record["finished_at"])
    if state == "succeeded":
        sentence = f"It succeeded at {at}, in {attempts}."
    elif state == "dead":
        sentence = (
            f"It is dead since {at}, after {attempts}{_failure(record)}; RetryTask runs it again."
        )
    elif state == "cancelled":
        sentence = f"It was cancelled at {at}; RetryTask runs it again."
    else:
        sentence = f"It expired at {at}: no attempt had started by its expire_at."
    return Why(state, WaitReason.FINISHED, sentence)


def _dated(record: Record, now: int) -> Why:
    """Running, or waiting for a time."""
    state = record["state"]
    if state == "leased":
        sentence = (
            f"It is running: worker {record['worker_id']} began attempt {record['attempt']} of "
            f"{record['max_attempts']} {_span(now - record['started_at'])} ago."
        )
        return Why(state, WaitReason.RUNNING, sentence)
    wait = record["run_at"] - now
    due = f"is due in {_span(wait)}" if wait > 0 else "is due now"
    if state == "retrying":
        sentence = (
            f"Attempt {record['attempt']} of {record['max_attempts']} failed{_failure(record)}; "
            f"the next one {due}, at {_time(record['run_at'])}."
        )
        return Why(state, WaitReason.RETRYING, sentence)
    sentence = f"It is scheduled and {due}, at {_time(record['run_at'])}."
    return Why(state, WaitReason.SCHEDULED, sentence)


def _blocked(record: Record, facts: Record) -> Why:
    if facts["behind"] is not None:
        holder = str(facts["behind"])
        sentence = (
            f"It waits behind task {holder}, which has the same job key {record['job_key']!r} and "
            "is running."
        )
        return Why("blocked", WaitReason.JOB_KEY, sentence, (holder,))
    holders = tuple(str(holder) for holder in facts["holders"] or ())
    key = f"concurrency key {record['concurrency_key']!r}"
    if not holders:
        sentence = f"It waits for {key}, which is free: it becomes available in a moment."
    else:
        more = f" and {facts['held_by'] - 1} more" if facts["held_by"] > 1 else ""
        sentence = f"It waits for {key}, held by task {holders[0]}{more}{_ahead(facts)}."
    return Why("blocked", WaitReason.CONCURRENCY_KEY, sentence, holders)


def _available(record: Record, facts: Record, takers: Sequence[Record]) -> Why:
    queue, kind = record["queue"], record["kind"]
    limit, per_worker = facts["max_in_flight"], facts["max_in_flight_per_worker"]
    active = [taker for taker in takers if not taker["draining"]]
    if facts["paused"]:
        found = WaitReason.QUEUE_PAUSED, f"Its queue {queue} is paused."
    elif not facts["kind_known"]:
        found = (
            WaitReason.UNKNOWN_KIND,
            f"No running server knows its kind {kind}: start one with its descriptors.",
        )
    elif not takers:
        found = (
            WaitReason.NO_WORKER,
            f"No connected worker takes kind {kind} from queue {queue}.",
        )
    elif not active:
        found = (
            WaitReason.WORKERS_DRAINING,
            f"Every worker that takes it is draining, such as {takers[0]['worker_id']}.",
        )
    elif limit is not None and facts["in_flight"] >= limit:
        found = (
            WaitReason.QUEUE_LIMIT,
            f"Its queue {queue} is at its limit: {facts['in_flight']} of {limit} tasks in flight"
            f"{_ahead(facts)}.",
        )
    elif per_worker is not None and all(w["held_of_queue"] >= per_worker for w in active):
        found = (
            WaitReason.WORKER_LIMIT,
            f"Each of the {len(active)} workers that take it holds {per_worker} tasks of queue "
            f"{queue}, the limit per worker{_ahead(facts)}.",
        )
    elif all(w["held"] >= w["max_in_flight"] for w in active):
        found = (
            WaitReason.WORKERS_BUSY,
            f"The {len(active)} workers that take it are busy: they hold "
            f"{sum(w['held'] for w in active)} tasks, as many as they asked for{_ahead(facts)}.",
        )
    else:
        found = WaitReason.IN_LINE, f"It is next in its line{_ahead(facts)}."
        if facts["ahead"]:
            found = WaitReason.IN_LINE, f"It is in line{_ahead(facts)}."
    return Why("available", *found)


def _ahead(facts: Record) -> str:
    ahead = facts["ahead"]
    if not ahead:
        return ""
    count = f"{_MANY} or more tasks are" if ahead >= _MANY else f"{ahead} tasks are"
    return f"; {'1 task is' if ahead == 1 else count} ahead of it"


def _failure(record: Record) -> str:
    error = record["last_error"]
    if not error:
        return ""
    text = ": ".join(part for part in (error.get("type"), error.get("message")) if part)
    line = " ".join(text.split())
    shown = line if len(line) <= _ERROR_CHARACTERS else f"{line[:_ERROR_CHARACTERS]}…"
    return f" ({shown})" if shown else ""


def _time(microseconds: int) -> str:
    at = datetime.fromtimestamp(microseconds / 1_000_000, UTC)
    return at.isoformat(sep=" ", timespec="seconds").replace("+00:00", " UTC")


def _span(microseconds: int) -> str:
    """A duration for people: its two largest units at most."""
    seconds = max(0, microseconds) // 1_000_000
    if seconds < 1:
        return "less than a second"
    parts = []
    for name, length in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        if seconds >= length:
            parts.append(f"{seconds // length} {name}")
            seconds %= length
    return " ".join(parts[:2])
