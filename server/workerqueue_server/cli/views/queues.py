"""Queues for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.text import Text

from workerqueue_server.cli.output import Column, console, print_facts, print_table
from workerqueue_server.cli.parameters import STATES
from workerqueue_server.cli.views import times
from workerqueue_server.cli.views.tasks import colored_state

if TYPE_CHECKING:
    from workerqueue.v1.queue_admin_pb2 import Queue, QueueRates

_COLUMNS = (
    Column("queue", whole=True),
    Column("state"),
    Column("available", right=True),
    Column("leased", right=True),
    Column("waiting", right=True),
    Column("dead", right=True),
    Column("oldest", right=True),
    Column("in", right=True),
    Column("done", right=True),
    Column("limit", right=True),
    Column("per worker", right=True),
)

WAITING_STATES = ("scheduled", "blocked", "retrying")


def held(queue: Queue, *states: str) -> int:
    """How many tasks it holds in these states."""
    return sum(queue.statistics.tasks_by_state.get(state, 0) for state in states)


def oldest(queue: Queue) -> str:
    """How long the oldest available task waits; empty: none does."""
    statistics = queue.statistics
    if not statistics.HasField("oldest_available_age"):
        return ""
    return times.duration(statistics.oldest_available_age)


def print_queues(queues: Iterable[Queue]) -> None:
    """One line per queue."""
    print_table(_COLUMNS, [_row(queue) for queue in queues])


def print_queue(queue: Queue) -> None:
    """Everything about a queue."""
    print_facts(_facts(queue))
    kinds = queue.statistics.kinds
    if kinds:
        shown = [state for state in STATES if any(k.tasks_by_state.get(state) for k in kinds)]
        console().print()
        print_table(
            [Column("kind"), *(Column(state, right=True) for state in shown)],
            [[k.kind, *(_number(k.tasks_by_state.get(s, 0)) for s in shown)] for k in kinds],
        )


def queue_line(queue: Queue) -> str:
    """A queue after a change, in one line."""
    return (
        f"{queue.name}: {'paused' if queue.paused else 'open'}, "
        f"max in flight {limit(queue.max_in_flight)}, "
        f"per worker {limit(queue.max_in_flight_per_worker)}"
    )


def limit(value: int) -> str:
    """A limit, where 0 means none."""
    return times.count(value) if value else "none"


def _facts(queue: Queue) -> Iterable[tuple[str, Any]]:
    statistics = queue.statistics
    yield "queue", queue.name
    yield "state", _state(queue)
    yield "max in flight", limit(queue.max_in_flight)
    yield "per worker", limit(queue.max_in_flight_per_worker)
    yield "limits set by", "an operator" if queue.operator_limits else "the contract"
    yield "first heard of", times.moment_with_age(queue.created_at, times.clock())
    for state in STATES:
        if number := statistics.tasks_by_state.get(state, 0):
            yield state, _colored(state, number)
    yield "oldest available", oldest(queue)
    yield "last minute", _rates(statistics.last_minute)
    yield "last hour", _rates(statistics.last_hour)


def _row(queue: Queue) -> tuple[Any, ...]:
    rates = queue.statistics.last_minute
    return (
        queue.name,
        _state(queue),
        _number(held(queue, "available")),
        _number(held(queue, "leased")),
        _number(held(queue, *WAITING_STATES)),
        _number(held(queue, "dead")),
        oldest(queue),
        times.rate(rates.enqueued),
        times.rate(rates.succeeded),
        limit(queue.max_in_flight) if queue.max_in_flight else "",
        limit(queue.max_in_flight_per_worker) if queue.max_in_flight_per_worker else "",
    )


def _state(queue: Queue) -> Text:
    return Text("paused", style="yellow") if queue.paused else Text("open", style="green")


def _colored(state: str, number: int) -> Text:
    shown = Text(times.count(number))
    shown.stylize(colored_state(state).style)
    return shown


def _number(number: int) -> str:
    return times.count(number) if number else "-"


def _rates(rates: QueueRates) -> str:
    named = (
        ("enqueued", rates.enqueued),
        ("started", rates.started),
        ("succeeded", rates.succeeded),
        ("retried", rates.retried),
        ("died", rates.died),
        ("dropped", rates.dropped),
    )
    return ", ".join(f"{name} {times.rate(value)}" for name, value in named if value) or "still"
