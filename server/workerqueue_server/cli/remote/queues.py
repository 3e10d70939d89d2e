"""``workerqueue queues``."""

from __future__ import annotations

from typing import Any

import click

from workerqueue.v1 import queue_admin_pb2
from workerqueue_server.cli.connection import Remote, remote_command
from workerqueue_server.cli.groups import ListingGroup
from workerqueue_server.cli.parameters import LIMIT
from workerqueue_server.cli.remote.answers import print_answer, print_answers
from workerqueue_server.cli.remote.bulk import bulk_flags, run_bulk
from workerqueue_server.cli.views.queues import print_queue, print_queues, queue_line


@click.group(cls=ListingGroup)
def queues() -> None:
    """List, pause, resume, limit and purge queues."""


@queues.command("list")
@remote_command
def list_queues(remote: Remote) -> None:
    """List the queues with their limits, depths and rates.

    WAITING counts scheduled, blocked and retrying tasks; IN and DONE are averages over the last
    minute.
    """
    request = queue_admin_pb2.ListQueuesRequest(page_size=1_000)
    found = remote.pages(remote.admin.ListQueues, request, "queues")
    print_answers(remote, found, print_queues)


@queues.command("show")
@click.argument("queue", metavar="NAME")
@remote_command
def show(remote: Remote, queue: str) -> None:
    """Show a queue with its statistics by kind."""
    request = queue_admin_pb2.GetQueueRequest(queue=queue)
    print_answer(remote, remote.call(remote.admin.GetQueue, request).queue, print_queue)


@queues.command("pause")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@remote_command
def pause(remote: Remote, names: tuple[str, ...]) -> None:
    """Stop leasing from queues. What is leased goes on, and so does enqueueing."""
    for name in names:
        request = queue_admin_pb2.PauseQueueRequest(queue=name)
        print_answer(remote, remote.call(remote.admin.PauseQueue, request).queue, _changed)


@queues.command("resume")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@remote_command
def resume(remote: Remote, names: tuple[str, ...]) -> None:
    """Lease from paused queues again."""
    for name in names:
        request = queue_admin_pb2.ResumeQueueRequest(queue=name)
        print_answer(remote, remote.call(remote.admin.ResumeQueue, request).queue, _changed)


@queues.command("set")
@click.argument("queue", metavar="NAME")
@click.option(
    "--max-in-flight",
    type=LIMIT,
    metavar="NUMBER|none",
    help="How many of its tasks may be leased at once, over all workers and servers.",
)
@click.option(
    "--max-in-flight-per-worker",
    type=LIMIT,
    metavar="NUMBER|none",
    help="How many of its tasks one worker may hold at once.",
)
@click.option("--reset", is_flag=True, help="Go back to the limits that the contract declares.")
@click.option("--create", is_flag=True, help="Make the queue if it does not exist yet.")
@remote_command
def set_limits(
    remote: Remote,
    queue: str,
    max_in_flight: int | None,
    max_in_flight_per_worker: int | None,
    reset: bool,
    create: bool,
) -> None:
    """Change a queue's limits; they hold at once, on every server, and are kept."""
    limits = (max_in_flight, max_in_flight_per_worker)
    if reset and limits != (None, None):
        raise click.UsageError("--reset goes with no limit")
    if not reset and limits == (None, None):
        raise click.UsageError("give --max-in-flight, --max-in-flight-per-worker or --reset")
    request = queue_admin_pb2.UpdateQueueRequest(
        queue=queue,
        max_in_flight=max_in_flight,
        max_in_flight_per_worker=max_in_flight_per_worker,
        reset_to_declaration=reset,
        allow_missing=create,
    )
    print_answer(remote, remote.call(remote.admin.UpdateQueue, request).queue, _changed)


@queues.command("purge")
@click.argument("queue", metavar="NAME")
@bulk_flags
@remote_command
def purge(remote: Remote, queue: str, dry_run: bool, yes: bool) -> None:
    """Delete every waiting task of a queue; leased and finished ones stay."""
    request = queue_admin_pb2.PurgeQueueRequest(queue=queue)
    run_bulk(remote, remote.admin.PurgeQueue, request, "deleted", dry_run=dry_run, yes=yes)


def _changed(queue: Any) -> None:
    click.echo(queue_line(queue))
