"""``workerqueue tasks``: looking at tasks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import islice
from typing import Any

import click

from workerqueue.v1 import task_admin_pb2
from workerqueue_server.cli.connection import Remote, remote_command
from workerqueue_server.cli.groups import ListingGroup
from workerqueue_server.cli.output import print_json, print_json_line, say
from workerqueue_server.cli.parameters import SPAN
from workerqueue_server.cli.remote.answers import print_answer, print_answers
from workerqueue_server.cli.remote.each import each_task
from workerqueue_server.cli.remote.filters import filter_flags, take_filter
from workerqueue_server.cli.remote.task_changes import (
    cancel,
    delete,
    remove_job_key,
    reschedule,
    retry,
)
from workerqueue_server.cli.remote.waiting import changes, outcome_failure
from workerqueue_server.cli.views.tasks import change_line, print_task, print_tasks

_LARGEST_PAGE = 1_000


@click.group(cls=ListingGroup)
def tasks() -> None:
    """List, show, retry, cancel, delete and watch tasks."""


@tasks.command("list")
@filter_flags
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
def list_tasks(remote: Remote, limit: int, everything: bool, **given: Any) -> None:
    """List tasks, live and finished, the newest first.

    Flags narrow the list; without any, all tasks are meant. As JSON the tasks come with payload,
    result and checkpoint.
    """
    chosen = take_filter(given)
    print_answers(remote, found_tasks(remote, chosen, None if everything else limit), print_tasks)


def found_tasks(remote: Remote, chosen: Any, limit: int | None) -> Iterator[Any]:
    """The tasks that fit a filter, at most ``limit``; says so where there are more."""
    full = remote.output != "table"
    request = task_admin_pb2.ListTasksRequest(
        filter=chosen,
        page_size=_LARGEST_PAGE if limit is None else min(limit + 1, _LARGEST_PAGE),
        view=task_admin_pb2.TASK_VIEW_FULL if full else task_admin_pb2.TASK_VIEW_BASIC,
    )
    found = remote.pages(remote.admin.ListTasks, request, "tasks")
    yield from islice(found, limit)
    if limit is not None and next(found, None) is not None:
        say(f"there are more than these {limit}; see --limit and --all")


@tasks.command("show")
@click.argument("task_ids", nargs=-1, required=True, metavar="ID...")
@remote_command
def show(remote: Remote, task_ids: tuple[str, ...]) -> None:
    """Show everything about tasks: payload, result, attempts, errors."""

    def show_one(task_id: str) -> None:
        answer = remote.call(remote.admin.GetTask, task_admin_pb2.GetTaskRequest(task_id=task_id))
        print_answer(remote, answer.task, lambda task: print_task(task, remote.views))
        if answer.omitted_fields:
            say(f"too large to show: {', '.join(answer.omitted_fields)}")

    each_task(remote, task_ids, show_one)


@tasks.command("why")
@click.argument("task_ids", nargs=-1, required=True, metavar="ID...")
@remote_command
def why(remote: Remote, task_ids: tuple[str, ...]) -> None:
    """Say why tasks are not running, in one sentence each."""

    def explain(task_id: str) -> None:
        answer = remote.call(remote.admin.WhyTask, task_admin_pb2.WhyTaskRequest(task_id=task_id))
        print_answer(remote, answer, lambda told: click.echo(told.explanation))

    each_task(remote, task_ids, explain)


@tasks.command("watch")
@click.argument("task_id", metavar="ID")
@click.option("--timeout", type=SPAN, metavar="TIME", help="Watch no longer than this.")
@remote_command
def watch(remote: Remote, task_id: str, timeout: timedelta | None) -> None:
    """Follow a task until it ends.

    Prints a line for each change. Exits with 0 if the task succeeded, with 5 if it ended otherwise
    and with 6 if it has not ended within --timeout. Goes on over restarts of the server.
    """
    latest: Any = None
    for latest in changes(remote, task_id, timeout):
        if remote.output == "table":
            click.echo(change_line(latest))
        elif remote.output == "jsonl":
            print_json_line(remote.views.json(latest))
    if remote.output == "json":
        print_json(remote.views.json(latest))
    if (failure := outcome_failure(latest)) is not None:
        raise failure


for _command in (retry, cancel, delete, reschedule, remove_job_key):
    tasks.add_command(_command)
