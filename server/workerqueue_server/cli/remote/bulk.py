"""Changes to many tasks: counted first, confirmed, then done with a progress bar."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from workerqueue_server.cli.connection import Remote
from workerqueue_server.cli.output import print_json, print_json_line, progress, say

if TYPE_CHECKING:
    from workerqueue.v1.task_admin_pb2 import BulkProgress

Command = TypeVar("Command", bound=Callable[..., Any])


def bulk_flags(command: Command) -> Command:
    """Adds ``--dry-run`` and ``--yes``."""
    yes = click.option("-y", "--yes", is_flag=True, help="Do not ask before changing many tasks.")
    dry = click.option("--dry-run", is_flag=True, help="Count the tasks and change nothing.")
    return dry(yes(command))


def run_bulk(
    remote: Remote, method: Any, request: Any, done: str, *, dry_run: bool, yes: bool
) -> None:
    """Runs a bulk call.

    Args:
        remote: The server.
        method: The stub's method; its answers carry a BulkProgress.
        request: Its request; `dry_run` is set here.
        done: What is done to tasks, such as `cancelled`.
        dry_run: Whether to count only.
        yes: Whether to go on without a question, and so without counting first.
    """
    if dry_run or not yes:
        counted = _counted(remote, method, request)
        if dry_run:
            _report(remote, counted, f"{counted.matched:,} tasks would be {done}")
            return
        if counted.matched and not _confirmed(counted.matched, done):
            say("nothing was changed")
            return
        total: int | None = counted.matched
    else:
        total = None
    request.dry_run = False
    last = _run(remote, method, request, f"{done} tasks", total)
    _report(remote, last, f"{last.changed:,} tasks {done}")


def _counted(remote: Remote, method: Any, request: Any) -> BulkProgress:
    request.dry_run = True
    return _run(remote, method, request, "counting", None)


def _run(remote: Remote, method: Any, request: Any, title: str, total: int | None) -> BulkProgress:
    from workerqueue.v1.task_admin_pb2 import BulkProgress

    latest = BulkProgress()
    with progress(title, total) as bar:
        for answer in remote.stream(method, request):
            latest = answer.progress
            bar.at(latest.matched if request.dry_run else latest.changed)
            if remote.output == "jsonl" and not request.dry_run and not latest.done:
                print_json_line(remote.views.json(latest))
    return latest


def _confirmed(matched: int, done: str) -> bool:
    if not sys.stdin.isatty():
        raise click.UsageError(
            f"{matched:,} tasks would be {done}; add --yes to go on without a question"
        )
    return click.confirm(f"{matched:,} tasks will be {done}. Go on?", err=True)


def _report(remote: Remote, last: BulkProgress, sentence: str) -> None:
    if remote.output == "table":
        click.echo(sentence)
    elif remote.output == "json":
        print_json(remote.views.json(last))
    else:
        print_json_line(remote.views.json(last))
