"""``workerqueue tasks``: changing tasks, by id or by filter."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import click

from workerqueue.v1 import task_admin_pb2
from workerqueue_server.cli.connection import Remote, remote_command
from workerqueue_server.cli.groups import RemoteCommand
from workerqueue_server.cli.parameters import FUTURE, SPAN
from workerqueue_server.cli.remote.answers import print_answer
from workerqueue_server.cli.remote.bulk import bulk_flags, run_bulk
from workerqueue_server.cli.remote.each import each_task
from workerqueue_server.cli.remote.filters import filter_flags, take_filter
from workerqueue_server.cli.views.tasks import change_line


def _chosen(command: Callable[..., Any]) -> Callable[..., Any]:
    argument = click.argument("task_ids", nargs=-1, metavar="[ID]...")
    return argument(filter_flags(bulk_flags(command)))


@click.command("retry", cls=RemoteCommand)
@_chosen
@click.option(
    "--attempts",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="NUMBER",
    help="Attempts they get from here on, at least.",
)
@remote_command
def retry(
    remote: Remote,
    task_ids: tuple[str, ...],
    attempts: int,
    dry_run: bool,
    yes: bool,
    **given: Any,
) -> None:
    """Run tasks again, or now.

    A dead, cancelled or expired task becomes live again; a scheduled or retrying one waits no
    longer. Named by id, or chosen by flags: then the dead ones are meant unless --state says
    otherwise.
    """

    def one(task_id: str) -> None:
        request = task_admin_pb2.RetryTaskRequest(task_id=task_id, attempts=attempts)
        print_answer(remote, remote.call(remote.admin.RetryTask, request).task, _changed)

    request = task_admin_pb2.RetryTasksRequest(filter=take_filter(given), attempts=attempts)
    if _by_id(task_ids, request.filter, dry_run):
        each_task(remote, task_ids, one)
    else:
        run_bulk(remote, remote.admin.RetryTasks, request, "retried", dry_run=dry_run, yes=yes)


@click.command("cancel", cls=RemoteCommand)
@_chosen
@click.option("--reason", default="", metavar="TEXT", help="Why, kept with the tasks.")
@remote_command
def cancel(
    remote: Remote,
    task_ids: tuple[str, ...],
    reason: str,
    dry_run: bool,
    yes: bool,
    **given: Any,
) -> None:
    """Cancel tasks, running ones too: their workers are told.

    Named by id, or chosen by flags: then every live one is meant unless --state says otherwise.
    """

    def one(task_id: str) -> None:
        request = task_admin_pb2.CancelTaskRequest(task_id=task_id, reason=reason)
        print_answer(remote, remote.call(remote.admin.CancelTask, request).task, _changed)

    request = task_admin_pb2.CancelTasksRequest(filter=take_filter(given), reason=reason)
    if _by_id(task_ids, request.filter, dry_run):
        each_task(remote, task_ids, one)
    else:
        run_bulk(remote, remote.admin.CancelTasks, request, "cancelled", dry_run=dry_run, yes=yes)


@click.command("delete", cls=RemoteCommand)
@_chosen
@remote_command
def delete(
    remote: Remote, task_ids: tuple[str, ...], dry_run: bool, yes: bool, **given: Any
) -> None:
    """Forget tasks and their attempts.

    Named by id, or chosen by flags: then every state is meant but leased, unless --state says
    otherwise.
    """

    def one(task_id: str) -> None:
        request = task_admin_pb2.DeleteTaskRequest(task_id=task_id)
        answer = remote.call(remote.admin.DeleteTask, request)
        print_answer(remote, answer, lambda _: click.echo(f"{task_id} deleted"))

    request = task_admin_pb2.DeleteTasksRequest(filter=take_filter(given))
    if _by_id(task_ids, request.filter, dry_run):
        each_task(remote, task_ids, one)
    else:
        run_bulk(remote, remote.admin.DeleteTasks, request, "deleted", dry_run=dry_run, yes=yes)


@click.command("reschedule", cls=RemoteCommand)
@click.argument("task_ids", nargs=-1, required=True, metavar="ID...")
@click.option("--run-at", type=FUTURE, metavar="TIME", help="The new time; now runs it now.")
@click.option("--delay", type=SPAN, metavar="TIME", help="The new time, from now.")
@click.option("--priority", type=int, metavar="NUMBER", help="The new priority.")
@remote_command
def reschedule(
    remote: Remote,
    task_ids: tuple[str, ...],
    run_at: datetime | None,
    delay: timedelta | None,
    priority: int | None,
) -> None:
    """Change when, and how urgently, waiting tasks run."""
    if run_at is not None and delay is not None:
        raise click.UsageError("give --run-at or --delay, not both")
    if run_at is None and delay is None and priority is None:
        raise click.UsageError("say what to change: --run-at, --delay or --priority")

    def one(task_id: str) -> None:
        request = task_admin_pb2.RescheduleTaskRequest(task_id=task_id, priority=priority)
        if run_at is not None:
            request.run_at.FromDatetime(run_at)
        if delay is not None:
            request.delay.FromTimedelta(delay)
        print_answer(remote, remote.call(remote.admin.RescheduleTask, request).task, _changed)

    each_task(remote, task_ids, one)


@click.command("remove-job-key", cls=RemoteCommand)
@click.argument("job_key")
@remote_command
def remove_job_key(remote: Remote, job_key: str) -> None:
    """Remove the live task that has a job key.

    A waiting task is cancelled; a leased one goes on without the key and is not retried.
    """
    request = task_admin_pb2.RemoveByJobKeyRequest(job_key=job_key)

    def tell(answer: Any) -> None:
        if answer.cancelled_task_id:
            click.echo(f"{answer.cancelled_task_id} cancelled")
        if answer.released_task_id:
            click.echo(f"{answer.released_task_id} runs on without the key")

    print_answer(remote, remote.call(remote.admin.RemoveByJobKey, request), tell)


def _by_id(task_ids: tuple[str, ...], chosen: Any, dry_run: bool) -> bool:
    filtered = bool(chosen.ByteSize())
    if task_ids and (filtered or dry_run):
        raise click.UsageError("name tasks by id, or choose them by flags, not both")
    if not task_ids and not filtered:
        raise click.UsageError("name tasks by id, or choose them by flags such as --kind")
    return bool(task_ids)


def _changed(task: Any) -> None:
    click.echo(f"{task.task_id} {change_line(task)}")
