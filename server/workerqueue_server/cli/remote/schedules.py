"""``workerqueue schedules``."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import click

from workerqueue.v1 import schedule_pb2
from workerqueue_server.cli.connection import Remote, remote_command
from workerqueue_server.cli.groups import ListingGroup
from workerqueue_server.cli.parameters import FUTURE, SPAN, parse_object, read_argument
from workerqueue_server.cli.remote.answers import print_answer, print_answers
from workerqueue_server.cli.remote.task_options import policy_flags, take_options
from workerqueue_server.cli.views.schedules import print_schedule, print_schedules, schedule_line

_CATCH_UPS = ("skip", "latest", "all")
_OVERLAPS = ("allow", "skip", "replace")


@click.group(cls=ListingGroup)
def schedules() -> None:
    """Tasks made by the clock."""


def _definition_flags(command: Any) -> Any:
    for option in reversed(
        (
            click.option("--cron", metavar="FIELDS", help="When, such as '0 3 * * *' or @daily."),
            click.option("--time-zone", metavar="NAME", help="Such as Europe/Berlin. [UTC]"),
            click.option("--kind", metavar="NAME", help="The kind of task to make."),
            click.option("--payload", metavar="JSON", help="Its payload, as for `enqueue`."),
            click.option("--delay", type=SPAN, metavar="TIME", help="From the tick to `run_at`."),
            click.option("--catch-up", type=click.Choice(_CATCH_UPS), help="Late ticks. [latest]"),
            click.option("--catch-up-limit", type=int, metavar="NUMBER", help="With all. [100]"),
            click.option("--late-after", type=SPAN, metavar="TIME", help="When it is late. [1m]"),
            click.option(
                "--overlap",
                type=click.Choice(_OVERLAPS),
                help="While an earlier task is live. [allow]",
            ),
            click.option("--jitter", type=SPAN, metavar="TIME", help="Random delay, up to this."),
            click.option(
                "--expire-after",
                type=SPAN,
                metavar="TIME",
                help="A task not started so long after its tick is dropped.",
            ),
            click.option("--start-at", type=FUTURE, metavar="TIME", help="No ticks before."),
            click.option("--end-at", type=FUTURE, metavar="TIME", help="No ticks from then on."),
            click.option("--description", metavar="TEXT", help="For people."),
        )
    ):
        command = option(command)
    return policy_flags(command)


@schedules.command("list")
@remote_command
def list_schedules(remote: Remote) -> None:
    """List the schedules with their next ticks."""
    request = schedule_pb2.ListSchedulesRequest(page_size=1_000)
    found = remote.pages(remote.admin.ListSchedules, request, "schedules")
    print_answers(remote, found, print_schedules)


@schedules.command("show")
@click.argument("schedule_id", metavar="ID")
@click.option(
    "--next",
    "next_run_times",
    type=click.IntRange(1, 100),
    default=5,
    show_default=True,
    metavar="NUMBER",
    help="How many of the next ticks to show.",
)
@remote_command
def show(remote: Remote, schedule_id: str, next_run_times: int) -> None:
    """Show a schedule with its next ticks."""
    request = schedule_pb2.GetScheduleRequest(
        schedule_id=schedule_id, next_run_times=next_run_times
    )
    found = remote.call(remote.admin.GetSchedule, request).schedule
    print_answer(remote, found, lambda schedule: print_schedule(schedule, remote.views))


@schedules.command("create")
@click.argument("schedule_id", metavar="ID")
@_definition_flags
@click.option("--paused", is_flag=True, help="Stopped until `resume`.")
@click.option("--replace", is_flag=True, help="Replace the schedule if it exists.")
@click.option("--check", is_flag=True, help="Only check it and show its next ticks.")
@remote_command
def create(
    remote: Remote, schedule_id: str, paused: bool, replace: bool, check: bool, **given: Any
) -> None:
    """Make a schedule: --cron says when, --kind and --payload what."""
    for flag in ("cron", "kind"):
        if given[flag] is None:
            raise click.UsageError(f"a schedule needs --{flag}")
    if replace and check:
        raise click.UsageError("--check goes without --replace")
    made = schedule_pb2.Schedule(schedule_id=schedule_id, paused=paused)
    _define(made, given)
    if replace:
        update = schedule_pb2.UpdateScheduleRequest(schedule=made, allow_missing=True)
        stored = remote.call(remote.admin.UpdateSchedule, update).schedule
    else:
        request = schedule_pb2.CreateScheduleRequest(schedule=made, validate_only=check)
        stored = remote.call(remote.admin.CreateSchedule, request).schedule
    print_answer(remote, stored, _told)


@schedules.command("update")
@click.argument("schedule_id", metavar="ID")
@_definition_flags
@remote_command
def update(remote: Remote, schedule_id: str, **given: Any) -> None:
    """Change what the flags name of a schedule; the rest stays."""
    current = remote.call(
        remote.admin.GetSchedule, schedule_pb2.GetScheduleRequest(schedule_id=schedule_id)
    ).schedule
    _define(current, given)
    request = schedule_pb2.UpdateScheduleRequest(schedule=current)
    print_answer(remote, remote.call(remote.admin.UpdateSchedule, request).schedule, _told)


@schedules.command("delete")
@click.argument("schedule_id", metavar="ID")
@click.option(
    "--even-if-from-file",
    is_flag=True,
    help="Delete it although a file declares it; the next start makes it again.",
)
@remote_command
def delete(remote: Remote, schedule_id: str, even_if_from_file: bool) -> None:
    """Delete a schedule; the tasks it has made stay."""
    request = schedule_pb2.DeleteScheduleRequest(
        schedule_id=schedule_id, even_if_from_file=even_if_from_file
    )
    answer = remote.call(remote.admin.DeleteSchedule, request)
    print_answer(remote, answer, lambda _: click.echo(f"{schedule_id} deleted"))


@schedules.command("pause")
@click.argument("schedule_id", metavar="ID")
@remote_command
def pause(remote: Remote, schedule_id: str) -> None:
    """Stop a schedule: its ticks make no tasks."""
    request = schedule_pb2.PauseScheduleRequest(schedule_id=schedule_id)
    print_answer(remote, remote.call(remote.admin.PauseSchedule, request).schedule, _told)


@schedules.command("resume")
@click.argument("schedule_id", metavar="ID")
@remote_command
def resume(remote: Remote, schedule_id: str) -> None:
    """Go on with a paused schedule at its next tick."""
    request = schedule_pb2.ResumeScheduleRequest(schedule_id=schedule_id)
    print_answer(remote, remote.call(remote.admin.ResumeSchedule, request).schedule, _told)


@schedules.command("trigger")
@click.argument("schedule_id", metavar="ID")
@click.option("--task-id", default="", metavar="UUID", help="The task's id, to repeat it safely.")
@remote_command
def trigger(remote: Remote, schedule_id: str, task_id: str) -> None:
    """Make a schedule's task now, whatever its ticks and policies say."""
    request = schedule_pb2.TriggerScheduleRequest(schedule_id=schedule_id, task_id=task_id)
    enqueued = remote.call(remote.admin.TriggerSchedule, request).enqueued

    def tell(answer: Any) -> None:
        click.echo(f"{answer.task.task_id} ({answer.task.kind} in queue {answer.task.queue})")

    print_answer(remote, enqueued, tell)


def _define(schedule: schedule_pb2.Schedule, given: dict[str, Any]) -> None:
    """Puts what the flags say into the definition."""
    for field in ("cron", "time_zone", "catch_up_limit", "description"):
        if given[field] is not None:
            setattr(schedule, field, given[field])
    for prefix, field in (("CATCH_UP_POLICY", "catch_up"), ("OVERLAP_POLICY", "overlap")):
        if given[field] is not None:
            setattr(schedule, field, f"{prefix}_{given[field].upper()}")
    for field in ("late_after", "jitter", "expire_after", "start_at", "end_at"):
        _set_time(getattr(schedule, field), given[field])
    _define_task(schedule, given)


def _define_task(schedule: schedule_pb2.Schedule, given: dict[str, Any]) -> None:
    from google.protobuf.json_format import ParseDict

    task = schedule.task
    kind, payload = given["kind"], given["payload"]
    if kind is not None or payload is not None:
        known = task.dynamic.kind if task.WhichOneof("payload_form") == "dynamic" else ""
        if not (kind or known):
            raise click.UsageError("--payload needs --kind here")
        task.dynamic.kind = kind or known
    if payload is not None:
        args = parse_object(read_argument(payload), "the payload")
        task.dynamic.args.Clear()
        ParseDict(args, task.dynamic.args)
    options = take_options(given)
    if options.tags:
        del task.options.tags[:]
    task.options.MergeFrom(options)


def _set_time(message: Any, value: timedelta | datetime | None) -> None:
    if isinstance(value, timedelta):
        message.FromTimedelta(value)
    elif isinstance(value, datetime):
        message.FromDatetime(value)


def _told(schedule: Any) -> None:
    click.echo(schedule_line(schedule))
