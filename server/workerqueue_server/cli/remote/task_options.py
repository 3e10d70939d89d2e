"""Flags for everything a single task may have instead of its kind's policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from workerqueue_server.cli.parameters import FUTURE, NOTE, SPAN, STATE, state_values

if TYPE_CHECKING:
    from workerqueue.v1.worker_queue_pb2 import TaskOptions

Command = TypeVar("Command", bound=Callable[..., Any])

_JOB_KEY_MODES = ("replace", "preserve-run-at", "unsafe-dedupe")
_CONFLICTS = {"keep": "KEEP_EXISTING", "fail": "FAIL"}

_POLICY_FLAGS = (
    click.option("--queue", metavar="NAME", help="The queue."),
    click.option(
        "--priority", type=int, metavar="NUMBER", help="Larger runs first; -1000 to 1000."
    ),
    click.option("--max-attempts", type=int, metavar="NUMBER", help="Attempts it gets in all."),
    click.option("--timeout", type=SPAN, metavar="TIME", help="The hard limit on one attempt."),
    click.option(
        "--lease-duration",
        type=SPAN,
        metavar="TIME",
        help="How long the server waits without a heartbeat.",
    ),
    click.option(
        "--concurrency-key",
        metavar="KEY",
        help="Tasks that share it run one at a time; '' runs without the policy's key.",
    ),
    click.option(
        "--concurrency-limit", type=int, metavar="NUMBER", help="How many of that key may run."
    ),
    click.option(
        "--job-key", metavar="KEY", help="The caller's name for this job; never live twice."
    ),
    click.option(
        "--job-key-mode",
        type=click.Choice(_JOB_KEY_MODES),
        help="What to do with a live task of that job key.",
    ),
    click.option("--unique-args", is_flag=True, help="Unique by the whole payload."),
    click.option(
        "--unique-field", multiple=True, metavar="NAME", help="Unique by this field; repeatable."
    ),
    click.option("--unique-queue", is_flag=True, help="Unique within the queue."),
    click.option("--unique-period", type=SPAN, metavar="TIME", help="Unique within each period."),
    click.option(
        "--unique-state", type=STATE, multiple=True, help="States that count; repeatable."
    ),
    click.option(
        "--on-conflict",
        type=click.Choice(list(_CONFLICTS)),
        help="Where it is not unique: keep the existing task, or fail.",
    ),
    click.option("--tag", multiple=True, metavar="WORD", help="To find it by; repeatable."),
    click.option(
        "--metadata", type=NOTE, multiple=True, metavar="KEY=VALUE", help="A note; repeatable."
    ),
    click.option(
        "--retry-initial", type=SPAN, metavar="TIME", help="Wait after the first failure."
    ),
    click.option("--retry-multiplier", type=float, metavar="NUMBER", help="From wait to wait."),
    click.option("--retry-max", type=SPAN, metavar="TIME", help="The longest wait."),
    click.option("--retry-jitter", type=float, metavar="SHARE", help="Random spread, 0 to 1."),
    click.option("--keep-succeeded", type=SPAN, metavar="TIME", help="Retention if it succeeds."),
    click.option("--keep-dead", type=SPAN, metavar="TIME", help="Retention if it dies."),
    click.option("--keep-cancelled", type=SPAN, metavar="TIME", help="Retention if cancelled."),
    click.option("--keep-expired", type=SPAN, metavar="TIME", help="Retention if it expires."),
)

_TIME_FLAGS = (
    click.option("--delay", type=SPAN, metavar="TIME", help="Not before this long from now."),
    click.option("--run-at", type=FUTURE, metavar="TIME", help="Not before this time."),
    click.option(
        "--expire-at", type=FUTURE, metavar="TIME", help="Dropped if not started by this time."
    ),
)

_NAMES = (
    *("queue", "priority", "max_attempts", "timeout", "lease_duration", "concurrency_key"),
    *("concurrency_limit", "job_key", "job_key_mode", "unique_args", "unique_field"),
    *("unique_queue", "unique_period", "unique_state", "on_conflict", "tag", "metadata"),
    *("retry_initial", "retry_multiplier", "retry_max", "retry_jitter", "keep_succeeded"),
    *("keep_dead", "keep_cancelled", "keep_expired", "delay", "run_at", "expire_at"),
)


def policy_flags(command: Command) -> Command:
    """Adds the flags without those about time."""
    for option in reversed(_POLICY_FLAGS):
        command = option(command)
    return command


def task_flags(command: Command) -> Command:
    """Adds all flags."""
    command = policy_flags(command)
    for option in reversed(_TIME_FLAGS):
        command = option(command)
    return command


def take_options(given: dict[str, Any]) -> TaskOptions:
    """The options that the flags ask for; takes the flags out of ``given``."""
    from workerqueue.v1 import worker_queue_pb2

    flags = {name: given.pop(name) for name in _NAMES if name in given}
    if flags.get("delay") is not None and flags.get("run_at") is not None:
        raise click.UsageError("give --delay or --run-at, not both")
    options = worker_queue_pb2.TaskOptions(
        tags=flags["tag"], metadata=dict(flags["metadata"]), job_key_mode=_mode(flags)
    )
    for name in (
        *("queue", "priority", "max_attempts", "timeout", "lease_duration", "concurrency_key"),
        *("concurrency_limit", "job_key", "delay", "run_at", "expire_at"),
    ):
        _set(options, name, flags.get(name))
    _set_unique(options, flags)
    for name, field in (
        ("retry_initial", "initial_backoff"),
        ("retry_multiplier", "multiplier"),
        ("retry_max", "max_backoff"),
        ("retry_jitter", "jitter"),
    ):
        _set_part(options, "retry", field, flags[name])
    for state in ("succeeded", "dead", "cancelled", "expired"):
        _set_part(options, "retention", state, flags[f"keep_{state}"])
    return options


def _mode(flags: dict[str, Any]) -> Any:
    from workerqueue.v1 import policy_pb2

    if flags["job_key_mode"] is None:
        return policy_pb2.JOB_KEY_MODE_UNSPECIFIED
    name = flags["job_key_mode"].upper().replace("-", "_")
    return policy_pb2.JobKeyMode.Value(f"JOB_KEY_MODE_{name}")


def _set_unique(options: TaskOptions, flags: dict[str, Any]) -> None:
    from workerqueue.v1 import worker_queue_pb2

    asked = {
        "by_args": flags["unique_args"] or None,
        "by_queue": flags["unique_queue"] or None,
        "by_period": flags["unique_period"],
    }
    for field, value in asked.items():
        _set_part(options, "unique", field, value)
    options.unique.by_fields.extend(flags["unique_field"])
    options.unique.by_states.extend(state_values(flags["unique_state"]))
    if flags["on_conflict"] is not None:
        name = f"UNIQUE_CONFLICT_{_CONFLICTS[flags['on_conflict']]}"
        conflict: Any = worker_queue_pb2.UniqueConflict.Value(name)
        options.unique.on_conflict = conflict
    if not options.unique.ByteSize():
        options.ClearField("unique")


def _set_part(options: TaskOptions, part: str, field: str, value: Any) -> None:
    if value is not None:
        _set(getattr(options, part), field, value)


def _set(message: Any, field: str, value: Any) -> None:
    """Sets a scalar, or a Duration or Timestamp from Python's timedelta or datetime."""
    if value is None:
        return
    if message.DESCRIPTOR.fields_by_name[field].message_type is None:
        setattr(message, field, value)
    elif hasattr(value, "total_seconds"):
        getattr(message, field).FromTimedelta(value)
    else:
        getattr(message, field).FromDatetime(value)
