"""``workerqueue dead``: tasks that are out of attempts or failed permanently."""

from __future__ import annotations

from typing import Any

import click

from workerqueue.v1 import task_admin_pb2, task_pb2
from workerqueue_server.cli.connection import Remote, remote_command
from workerqueue_server.cli.groups import ListingGroup
from workerqueue_server.cli.remote.answers import print_answers
from workerqueue_server.cli.remote.bulk import bulk_flags, run_bulk
from workerqueue_server.cli.remote.filters import stateless_filter_flags, take_filter
from workerqueue_server.cli.remote.tasks import found_tasks
from workerqueue_server.cli.views.tasks import print_tasks


@click.group(cls=ListingGroup)
def dead() -> None:
    """List, retry and purge dead tasks.

    The same as `tasks` with `--state dead`.
    """


@dead.command("list")
@stateless_filter_flags
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    metavar="NUMBER",
    help="The most tasks to list.",
)
@click.option("--all", "everything", is_flag=True, help="List them all, however many.")
@remote_command
def list_dead(remote: Remote, limit: int, everything: bool, **given: Any) -> None:
    """List dead tasks with their last error, the newest first."""
    chosen = _dead(given)
    print_answers(remote, found_tasks(remote, chosen, None if everything else limit), print_tasks)


@dead.command("retry")
@stateless_filter_flags
@bulk_flags
@click.option(
    "--attempts",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="NUMBER",
    help="Attempts they get from here on, at least.",
)
@remote_command
def retry(remote: Remote, attempts: int, dry_run: bool, yes: bool, **given: Any) -> None:
    """Run dead tasks again: all of them, or those that the flags choose."""
    request = task_admin_pb2.RetryTasksRequest(filter=_dead(given), attempts=attempts)
    run_bulk(remote, remote.admin.RetryTasks, request, "retried", dry_run=dry_run, yes=yes)


@dead.command("purge")
@stateless_filter_flags
@bulk_flags
@remote_command
def purge(remote: Remote, dry_run: bool, yes: bool, **given: Any) -> None:
    """Forget dead tasks: all of them, or those that the flags choose."""
    request = task_admin_pb2.DeleteTasksRequest(filter=_dead(given))
    run_bulk(remote, remote.admin.DeleteTasks, request, "deleted", dry_run=dry_run, yes=yes)


def _dead(given: dict[str, Any]) -> task_admin_pb2.TaskFilter:
    chosen = take_filter(given)
    chosen.states.append(task_pb2.TASK_STATE_DEAD)
    return chosen
