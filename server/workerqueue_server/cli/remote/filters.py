"""Flags that choose tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from workerqueue_server.cli.parameters import PAST, STATE, state_values

if TYPE_CHECKING:
    from workerqueue.v1.task_admin_pb2 import TaskFilter

Command = TypeVar("Command", bound=Callable[..., Any])

_REPEATED = {"kind": "kinds", "queue": "queues", "tag": "tags"}
_SINGLE = {
    "by_concurrency_key": "concurrency_key",
    "by_job_key": "job_key",
    "by_worker": "worker_id",
    "error_type": "error_type",
}
_TIMES = {
    "since": "created_after",
    "until": "created_before",
    "finished_since": "finished_after",
    "finished_until": "finished_before",
}

_state_flag = click.option(
    "--state", type=STATE, multiple=True, help="In this state; repeatable, any of them."
)
_FLAGS = (
    click.option("--kind", multiple=True, metavar="NAME", help="Of this kind; repeatable."),
    click.option("--queue", multiple=True, metavar="NAME", help="In this queue; repeatable."),
    click.option("--tag", multiple=True, metavar="WORD", help="With this tag; repeatable, all."),
    click.option(
        "--concurrency-key", "by_concurrency_key", metavar="KEY", help="With this concurrency key."
    ),
    click.option("--job-key", "by_job_key", metavar="KEY", help="With this job key."),
    click.option(
        "--worker", "by_worker", metavar="ID", help="Whose current or last worker this is."
    ),
    click.option("--error-type", metavar="NAME", help="Whose last error is of this type."),
    click.option(
        "--since", type=PAST, metavar="TIME", help="Enqueued since; 2h means two hours ago."
    ),
    click.option("--until", type=PAST, metavar="TIME", help="Enqueued before."),
    click.option("--finished-since", type=PAST, metavar="TIME", help="Finished since."),
    click.option("--finished-until", type=PAST, metavar="TIME", help="Finished before."),
)


def filter_flags(command: Command) -> Command:
    """Adds the flags of a filter."""
    return _state_flag(stateless_filter_flags(command))


def stateless_filter_flags(command: Command) -> Command:
    """Adds the flags of a filter whose states are given."""
    for option in reversed(_FLAGS):
        command = option(command)
    return command


def take_filter(given: dict[str, Any]) -> TaskFilter:
    """The filter that the flags ask for; takes the flags out of ``given``."""
    from workerqueue.v1.task_admin_pb2 import TaskFilter

    chosen = TaskFilter(states=state_values(given.pop("state", ())))
    for flag, field in _REPEATED.items():
        getattr(chosen, field).extend(given.pop(flag))
    for flag, field in _SINGLE.items():
        if (value := given.pop(flag)) is not None:
            setattr(chosen, field, value)
    for flag, field in _TIMES.items():
        if (moment := given.pop(flag)) is not None:
            getattr(chosen, field).FromDatetime(moment)
    return chosen
