"""``workerqueue bench``."""

from __future__ import annotations

from typing import Any

import click
import grpc

from workerqueue.v1 import queue_admin_pb2, task_admin_pb2, task_pb2
from workerqueue_server.cli.connection import Remote, remote_command
from workerqueue_server.cli.failures import Failure
from workerqueue_server.cli.groups import RemoteCommand
from workerqueue_server.cli.output import (
    Column,
    print_json,
    print_json_line,
    print_table,
    progress,
    say,
)
from workerqueue_server.cli.remote.load import KIND, QUEUE, Drainer, store
from workerqueue_server.cli.remote.workers import all_workers
from workerqueue_server.cli.views import times

_LIMITS = (
    "One Python process made this load: it, the network and other work on these machines are part "
    "of the numbers. They compare setups with each other, and are no upper bound of the server."
)


@click.command(cls=RemoteCommand)
@click.option(
    "--tasks",
    type=click.IntRange(1, 1_000_000),
    default=10_000,
    show_default=True,
    metavar="NUMBER",
    help="How many tasks to store and drain.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 10_000),
    default=1_000,
    show_default=True,
    metavar="NUMBER",
    help="Tasks per EnqueueBatch.",
)
@click.option(
    "--window",
    type=click.IntRange(1, 10_000),
    default=2_000,
    show_default=True,
    metavar="NUMBER",
    help="Tasks the worker holds at once.",
)
@click.option(
    "--samples",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    metavar="NUMBER",
    help="Single tasks to measure latency with.",
)
@click.option(
    "--force", is_flag=True, help="Run even if other workers could take the bench's tasks."
)
@remote_command
def bench(remote: Remote, tasks: int, batch: int, window: int, samples: int, force: bool) -> None:
    """Put a small load on a server and measure it: store no-op tasks, then drain them.

    The tasks go through a queue of their own (workerqueue-bench) and are deleted afterwards. They
    are real tasks of kind runFinished: a worker that subscribes to no particular queue could take
    them, so the bench refuses to run beside one. One producer, one worker, one process: for a first
    impression of a setup, not for the limits of a server.
    """
    _check(remote, force)
    drainer: Drainer | None = None
    try:
        with progress("storing", tasks) as bar:
            stored = store(remote, tasks, batch, bar.at)
        drainer = Drainer(remote, window)
        with progress("draining", tasks) as bar:
            drained = drainer.drain(tasks, bar.at)
        with progress("latency", samples) as bar:
            latencies = []
            for number in range(samples):
                latencies.append(drainer.latency())
                bar.at(number + 1)
    finally:
        if drainer is not None:
            drainer.close()
        _clean_up(remote)
    _report(remote, tasks, stored, drained, sorted(latencies))


def _check(remote: Remote, force: bool) -> None:
    if _left(remote):
        raise Failure(
            f"the queue {QUEUE} holds tasks: another bench runs, or one was cut off",
            hint=f"`workerqueue tasks delete --queue {QUEUE}` removes them",
        )
    takers = [worker.worker_id for worker in all_workers(remote) if _could_take(worker)]
    if takers and not force:
        shown = ", ".join(takers[:3]) + (" and others" if len(takers) > 3 else "")
        raise Failure(
            f"{shown} could take the bench's tasks and would run them as real ones",
            hint="stop them, or go on with --force",
        )


def _left(remote: Remote) -> int:
    request = queue_admin_pb2.GetQueueRequest(queue=QUEUE)
    try:
        queue = remote.call(remote.admin.GetQueue, request).queue
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.NOT_FOUND:
            return 0
        raise
    return sum(queue.statistics.tasks_by_state.values())


def _could_take(worker: Any) -> bool:
    return any(
        (not session.queues or QUEUE in session.queues)
        and (not session.kinds or KIND in session.kinds)
        for session in worker.sessions
    )


def _clean_up(remote: Remote) -> None:
    request = task_admin_pb2.DeleteTasksRequest(
        filter=task_admin_pb2.TaskFilter(queues=[QUEUE], states=task_pb2.TaskState.keys()[1:])
    )
    try:
        with progress("cleaning up", None) as bar:
            for answer in remote.stream(remote.admin.DeleteTasks, request):
                bar.at(answer.progress.changed)
    except grpc.RpcError as error:
        say(f"workerqueue: warning: tasks are left in the queue {QUEUE}: {error.code().name}")


def _report(
    remote: Remote, tasks: int, stored: float, drained: float, latencies: list[float]
) -> None:
    p50 = latencies[len(latencies) // 2]
    p99 = latencies[min(len(latencies) * 99 // 100, len(latencies) - 1)]
    if remote.output == "table":
        print_table(
            [Column("what"), Column("tasks", right=True), Column("result", right=True)],
            [
                ("stored in batches", times.count(tasks), times.rate(tasks / stored)),
                ("leased and acked", times.count(tasks), times.rate(tasks / drained)),
                ("stored to arrived, median", times.count(len(latencies)), times.span(p50)),
                ("stored to arrived, 99th percentile", "", times.span(p99)),
            ],
        )
        say(_LIMITS)
        return
    facts = {
        "tasks": tasks,
        "storedPerSecond": round(tasks / stored, 1),
        "drainedPerSecond": round(tasks / drained, 1),
        "latencySamples": len(latencies),
        "latencyP50Seconds": round(p50, 6),
        "latencyP99Seconds": round(p99, 6),
    }
    (print_json if remote.output == "json" else print_json_line)(facts)
