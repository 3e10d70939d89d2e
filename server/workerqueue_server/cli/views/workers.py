"""Workers for people."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.text import Text

from workerqueue_server.cli.output import Column, print_table
from workerqueue_server.cli.views import times

if TYPE_CHECKING:
    from workerqueue.v1.worker_admin_pb2 import Worker

COLUMNS = (
    Column("worker", whole=True),
    Column("state"),
    Column("held", right=True),
    Column("window", right=True),
    Column("oldest lease"),
    Column("takes from"),
    Column("kinds"),
    Column("streams", right=True),
    Column("connected"),
)


def print_workers(workers: Iterable[Worker]) -> None:
    """One line per worker."""
    now = times.clock()
    print_table(COLUMNS, [worker_row(worker, now) for worker in workers])


def worker_row(worker: Worker, now: datetime) -> tuple[Any, ...]:
    """A worker's cells under `COLUMNS`."""
    sessions = worker.sessions
    return (
        worker.worker_id,
        worker_state(worker),
        str(worker.held_tasks),
        str(sum(session.max_in_flight for session in sessions)) if sessions else "",
        times.relative(worker.oldest_lease_at, now),
        _union([session.queues for session in sessions]),
        _union([session.kinds for session in sessions]),
        str(len(sessions)),
        times.relative(min((s.connected_at for s in sessions), key=_order), now)
        if sessions
        else "",
    )


def worker_state(worker: Worker) -> Text:
    """Whether it gets tasks."""
    if worker.drained:
        return Text("drained", style="yellow")
    if not worker.sessions:
        return Text("not connected", style="magenta")
    if all(session.draining for session in worker.sessions):
        return Text("draining", style="yellow")
    return Text("working", style="green")


def worker_line(worker: Worker) -> str:
    """A worker after a change, in one line."""
    line = f"{worker.worker_id}: {worker_state(worker)}, holds {worker.held_tasks} tasks"
    if worker.HasField("drained_until"):
        line += f", until {times.moment(worker.drained_until)}"
    return line


def _order(stamp: Any) -> int:
    nanoseconds: int = stamp.ToNanoseconds()
    return nanoseconds


def _union(lists: list[Any]) -> str:
    """What any of the streams takes; a stream without a list takes all."""
    if not lists or not all(lists):
        return "all" if lists else ""
    return ", ".join(sorted({name for names in lists for name in names}))
