"""``workerqueue workers``."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import click

from workerqueue.v1 import worker_admin_pb2
from workerqueue_server.cli.connection import Remote, remote_command
from workerqueue_server.cli.groups import ListingGroup
from workerqueue_server.cli.parameters import SPAN
from workerqueue_server.cli.remote.answers import print_answer, print_answers
from workerqueue_server.cli.views.workers import print_workers, worker_line


@click.group(cls=ListingGroup)
def workers() -> None:
    """List, drain and resume workers."""


@workers.command("list")
@remote_command
def list_workers(remote: Remote) -> None:
    """List everyone who is connected to any server, or holds a lease."""
    print_answers(remote, all_workers(remote), print_workers)


@workers.command("drain")
@click.argument("worker_id", metavar="ID")
@click.option("--grace", type=SPAN, metavar="TIME", help="How long its streams may finish. [60s]")
@click.option(
    "--for", "duration", type=SPAN, metavar="TIME", help="How long it stays drained. [1d]"
)
@remote_command
def drain(
    remote: Remote, worker_id: str, grace: timedelta | None, duration: timedelta | None
) -> None:
    """Give a worker no more tasks, on any server, and tell it to finish what it holds.

    It stays without tasks, also after a reconnect under the same id, until `resume`.
    """
    request = worker_admin_pb2.DrainWorkerRequest(worker_id=worker_id)
    if grace is not None:
        request.grace.FromTimedelta(grace)
    if duration is not None:
        request.duration.FromTimedelta(duration)
    print_answer(remote, remote.call(remote.admin.DrainWorker, request).worker, _changed)


@workers.command("resume")
@click.argument("worker_id", metavar="ID")
@remote_command
def resume(remote: Remote, worker_id: str) -> None:
    """Give a drained worker tasks again."""
    request = worker_admin_pb2.ResumeWorkerRequest(worker_id=worker_id)
    print_answer(remote, remote.call(remote.admin.ResumeWorker, request).worker, _changed)


def all_workers(remote: Remote) -> Iterable[worker_admin_pb2.Worker]:
    """Every worker, page by page."""
    request = worker_admin_pb2.ListWorkersRequest(page_size=1_000)
    return remote.pages(remote.admin.ListWorkers, request, "workers")


def _changed(worker: Any) -> None:
    click.echo(worker_line(worker))
