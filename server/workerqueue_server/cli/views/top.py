"""The live screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from workerqueue_server.cli.output import Column, plain_table
from workerqueue_server.cli.views import times
from workerqueue_server.cli.views.queues import WAITING_STATES, held, limit, oldest
from workerqueue_server.cli.views.workers import COLUMNS, worker_row

if TYPE_CHECKING:
    from rich.console import RenderableType

    from workerqueue.v1.queue_admin_pb2 import Queue
    from workerqueue.v1.worker_admin_pb2 import Worker

# Title, header, gaps and the lines that say what is left out.
_OTHER_LINES = 9

_QUEUE_COLUMNS = (
    Column("queue", whole=True),
    Column("available", right=True),
    Column("oldest", right=True),
    Column("leased", right=True),
    Column("of", right=True),
    Column("waiting", right=True),
    Column("dead", right=True),
    Column("enqueued", right=True),
    Column("started", right=True),
    Column("succeeded", right=True),
    Column("retried", right=True),
    Column("died", right=True),
)


@dataclass
class Snapshot:
    """What the server said last.

    Attributes:
        address: The server.
        taken_at: When it answered; None: not yet.
        queues: Its queues.
        workers: Its workers.
        problem: Why it does not answer now; empty: it does.
    """

    address: str
    taken_at: datetime | None = None
    queues: Sequence[Queue] = field(default_factory=list)
    workers: Sequence[Worker] = field(default_factory=list)
    problem: str = ""


def screen(snapshot: Snapshot, height: int) -> RenderableType:
    """The whole screen, cut to the height."""
    room = max(height - _OTHER_LINES, 4)
    workers = sorted(snapshot.workers, key=lambda w: (-w.held_tasks, w.worker_id))
    shown_workers = workers[: max(room // 3, room - len(snapshot.queues))]
    queues = sorted(snapshot.queues, key=_business, reverse=True)
    shown_queues = queues[: room - len(shown_workers)]
    parts: list[Any] = [_head(snapshot), _totals(snapshot.queues), Text()]
    parts.append(_queue_table(shown_queues))
    parts.append(_left_out(len(queues) - len(shown_queues), "queue"))
    parts.append(_worker_table(shown_workers))
    parts.append(_left_out(len(workers) - len(shown_workers), "worker"))
    return Group(*parts)


def _business(queue: Queue) -> tuple[int, ...]:
    return (held(queue, "available", "leased"), held(queue, *WAITING_STATES), held(queue, "dead"))


def _head(snapshot: Snapshot) -> Text:
    head = Text(f"workerqueue at {snapshot.address}", style="bold")
    if snapshot.taken_at is not None:
        head.append(f"  {snapshot.taken_at.astimezone():%H:%M:%S}", style="not bold")
    if snapshot.problem:
        head.append(f"  {snapshot.problem}", style="bold red")
    return head


def _totals(queues: Sequence[Queue]) -> Text:
    minute = [queue.statistics.last_minute for queue in queues]
    rates = (
        ("enqueued", sum(rates.enqueued for rates in minute)),
        ("started", sum(rates.started for rates in minute)),
        ("succeeded", sum(rates.succeeded for rates in minute)),
        ("retried", sum(rates.retried for rates in minute)),
        ("died", sum(rates.died for rates in minute)),
    )
    moving = "  ".join(f"{name} {times.rate(value)}" for name, value in rates)
    depth = "  ".join(
        f"{state} {times.count(sum(held(queue, state) for queue in queues))}"
        for state in ("available", "leased", "scheduled", "blocked", "retrying", "dead")
    )
    return Text(f"over the last minute: {moving}\nnow: {depth}")


def _queue_table(queues: Sequence[Queue]) -> RenderableType:
    table = plain_table(_QUEUE_COLUMNS)
    for queue in queues:
        rates = queue.statistics.last_minute
        name = Text(queue.name)
        if queue.paused:
            name.append(" paused", style="yellow")
        table.add_row(
            name,
            _number(held(queue, "available"), "cyan"),
            oldest(queue),
            _number(held(queue, "leased"), "blue"),
            limit(queue.max_in_flight) if queue.max_in_flight else "",
            _number(held(queue, *WAITING_STATES)),
            _number(held(queue, "dead"), "red"),
            times.rate(rates.enqueued),
            times.rate(rates.started),
            times.rate(rates.succeeded),
            times.rate(rates.retried),
            times.rate(rates.died),
        )
    table_part: RenderableType = table
    return table_part


def _worker_table(workers: Sequence[Worker]) -> RenderableType:
    if not workers:
        return Text("no worker is connected", style="yellow")
    now = times.clock()
    table = plain_table(COLUMNS)
    for worker in workers:
        row = worker_row(worker, now)
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    table_part: RenderableType = table
    return table_part


def _number(number: int, style: str = "") -> Text:
    return Text(times.count(number) if number else "-", style=style if number else "")


def _left_out(count: int, noun: str) -> Text:
    if count <= 0:
        return Text()
    return Text(f"and {count} more {noun}{'s' if count > 1 else ''}\n", style="dim")
