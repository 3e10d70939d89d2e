"""Schedules for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict
from rich.text import Text

from workerqueue.v1 import schedule_pb2
from workerqueue_server.cli.output import Column, console, print_facts, print_table
from workerqueue_server.cli.views import times
from workerqueue_server.cli.views.tasks import dumped

if TYPE_CHECKING:
    from workerqueue.v1.schedule_pb2 import Schedule
    from workerqueue_server.cli.views.messages import Views

_COLUMNS = (
    Column("schedule", whole=True),
    Column("state"),
    Column("cron"),
    Column("time zone"),
    Column("kind"),
    Column("next"),
    Column("last"),
    Column("made", right=True),
    Column("skipped", right=True),
    Column("problem"),
)


def print_schedules(schedules: Iterable[Schedule]) -> None:
    """One line per schedule."""
    print_table(_COLUMNS, [_row(schedule) for schedule in schedules])


def print_schedule(schedule: Schedule, views: Views) -> None:
    """Everything about a schedule."""
    print_facts(_facts(schedule))
    task = schedule.task
    console().print()
    if task.WhichOneof("payload_form") == "payload":
        console().print(Text(f"payload ({_kind(schedule)})", style="bold"))
        console().print(Text(dumped(views.fields(task.payload))))
    else:
        console().print(Text("payload", style="bold"))
        console().print(Text(dumped(MessageToDict(task.dynamic.args))))
    if task.HasField("options"):
        console().print(Text("options", style="bold"))
        console().print(Text(dumped(MessageToDict(task.options))))
    if schedule.next_run_times:
        console().print(Text("next ticks", style="bold"))
        for stamp in schedule.next_run_times:
            console().print(Text(times.moment_with_age(stamp, times.clock())))


def schedule_line(schedule: Schedule) -> str:
    """A schedule after a change, in one line."""
    when = f"{schedule.cron} {schedule.time_zone}".strip()
    return f"{schedule.schedule_id}: {_state(schedule)}, {when}, {_next(schedule)}"


def _next(schedule: Schedule) -> str:
    if schedule.HasField("next_run_at"):
        return f"next {times.moment_with_age(schedule.next_run_at, times.clock())}"
    return "no next tick"


def _facts(schedule: Schedule) -> Iterable[tuple[str, Any]]:
    now = times.clock()
    # Unset means the defaults, as the contract says.
    catch_up = schedule_pb2.CatchUpPolicy.Name(
        schedule.catch_up or schedule_pb2.CATCH_UP_POLICY_LATEST
    )
    overlap = schedule_pb2.OverlapPolicy.Name(schedule.overlap or schedule_pb2.OVERLAP_POLICY_ALLOW)
    yield "schedule", schedule.schedule_id
    yield "state", _state(schedule)
    yield "description", schedule.description
    yield "cron", schedule.cron
    yield "time zone", schedule.time_zone
    yield "kind", _kind(schedule)
    yield "late ticks", catch_up.removeprefix("CATCH_UP_POLICY_").lower()
    yield "overlap", overlap.removeprefix("OVERLAP_POLICY_").lower()
    for name in ("late_after", "jitter", "expire_after"):
        if schedule.HasField(name):
            yield name.replace("_", " "), times.duration(getattr(schedule, name))
    yield "starts", times.moment_with_age(schedule.start_at, now)
    yield "ends", times.moment_with_age(schedule.end_at, now)
    yield "declared by", schedule.source
    yield "created", times.moment_with_age(schedule.created_at, now)
    yield "last tick", times.moment_with_age(schedule.last_run_at, now)
    yield "last task", schedule.last_task_id
    yield "last problem", schedule.last_problem
    yield "tasks made", times.count(schedule.tasks_made)
    yield "ticks skipped", times.count(schedule.ticks_skipped)


def _row(schedule: Schedule) -> tuple[Any, ...]:
    now = times.clock()
    return (
        schedule.schedule_id,
        _state(schedule),
        schedule.cron,
        schedule.time_zone,
        _kind(schedule),
        times.relative(schedule.next_run_at, now),
        times.relative(schedule.last_run_at, now),
        times.count(schedule.tasks_made),
        times.count(schedule.ticks_skipped),
        schedule.last_problem,
    )


def _kind(schedule: Schedule) -> str:
    task = schedule.task
    return task.dynamic.kind or task.payload.type_url.rpartition("/")[2]


def _state(schedule: Schedule) -> Text:
    return Text("paused", style="yellow") if schedule.paused else Text("open", style="green")
