"""Schedules declared in a TOML file.

The file is a friendlier spelling of the contract's Schedule: one table per schedule, policies in
lower case, durations such as "90s" or "5m", the task as kind, args and options.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import json_format

from workerqueue.v1 import schedule_pb2, worker_queue_pb2
from workerqueue_server.queue import bounds
from workerqueue_server.queue.errors import InvalidTask, ScheduleExists, TooLarge, UnknownKind
from workerqueue_server.queue.schedule_definition import ReadTask, read_definition
from workerqueue_server.queue.schedules import Reconciled, Schedules

DEFAULT_OWNER = "default"

_OWN_KEYS = ("kind", "args", "options")
_FIELDS = (
    *("cron", "time_zone", "catch_up", "catch_up_limit", "late_after", "overlap", "jitter"),
    *("expire_after", "start_at", "end_at", "paused", "description"),
)
_POLICIES = (
    ("catch_up", "CATCH_UP_POLICY_", ("skip", "latest", "all")),
    ("overlap", "OVERLAP_POLICY_", ("allow", "skip", "replace")),
)
# What the JSON parser says around the reason.
_NOISE = re.compile(r"Failed to parse \w+ field: | at Schedule\S*")
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


class ScheduleFileError(Exception):
    """A file that cannot be used; the message names the file, the schedule and the reason."""


class ScheduleFile(NamedTuple):
    """A file's content, checked.

    Attributes:
        path: Where it was read.
        owner: Whose schedules these are: those of his that the file does not name are deleted.
        schedules: The definitions by name.
    """

    path: Path
    owner: str
    schedules: dict[str, schedule_pb2.Schedule]


def load_schedule_file(path: Path, read_task: ReadTask) -> ScheduleFile:
    """Reads and checks a file. Raises ScheduleFileError."""
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ScheduleFileError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScheduleFileError(f"{path} is not TOML: {error}") from error
    try:
        _refuse_unknown(content, ("owner", "schedules"))
        owner = content.get("owner", DEFAULT_OWNER)
        if not isinstance(owner, str) or not bounds.is_queue_name(owner):
            raise ValueError("owner: must be 1 to 128 letters, digits or any of ._:/-")
        tables = _table(content.get("schedules", {}), "schedules")
    except ValueError as error:
        raise ScheduleFileError(f"{path}: {error}") from error
    schedules = {}
    for name, table in tables.items():
        try:
            schedules[name] = _read_schedule(name, _table(table, "the schedule"))
            read_definition(schedules[name], read_task, "")
        except (InvalidTask, UnknownKind, TooLarge) as error:
            reasons = "; ".join(f"{_spelled(v.field)}: {v.description}" for v in error.violations)
            raise ScheduleFileError(_in_one_line(path, name, reasons)) from error
        except ValueError as error:
            raise ScheduleFileError(_in_one_line(path, name, str(error))) from error
    return ScheduleFile(path, owner, schedules)


async def reconcile(schedules: Schedules, file: ScheduleFile) -> Reconciled:
    """Makes the owner's schedules what the file says. Raises ScheduleFileError or StoreError."""
    try:
        return await schedules.reconcile(file.owner, file.schedules)
    except ScheduleExists as error:
        name = error.metadata["schedule_id"]
        raise ScheduleFileError(
            f"{file.path}: schedule {name!r}: there is one of this name that was not made by this "
            f"file (owner {file.owner!r}); delete it, or choose another name"
        ) from error


def _read_schedule(name: str, table: Mapping[str, Any]) -> schedule_pb2.Schedule:
    _refuse_unknown(table, (*_FIELDS, *_OWN_KEYS))
    if not isinstance(table.get("kind"), str):
        raise ValueError("kind: is required: the name of the kind of task to make")
    definition: dict[str, Any] = {key: table[key] for key in _FIELDS if key in table}
    for key, prefix, choices in _POLICIES:
        if key in definition:
            if definition[key] not in choices:
                raise ValueError(f"{key}: must be one of {', '.join(choices)}")
            definition[key] = prefix + definition[key].upper()
    options = _table(table.get("options", {}), "options")
    _refuse_unknown(options, tuple(worker_queue_pb2.TaskOptions.DESCRIPTOR.fields_by_name))
    definition["schedule_id"] = name
    definition["task"] = {
        "dynamic": {"kind": table["kind"], "args": _table(table.get("args", {}), "args")},
        "options": options,
    }
    message = schedule_pb2.Schedule()
    spelled = _as_json(definition, schedule_pb2.Schedule.DESCRIPTOR)
    for key, value in spelled.items():
        try:
            json_format.ParseDict({key: value}, message)
        except json_format.ParseError as error:
            where = "options" if key == "task" else key
            raise ValueError(f"{where}: {_NOISE.sub('', str(error)).rstrip('.')}") from error
    return message


def _as_json(value: Any, descriptor: Any) -> Any:
    """A TOML value as JSON, with durations in the one form that proto3 JSON knows."""
    if isinstance(value, dict):
        fields = {} if descriptor is None else descriptor.fields_by_name
        return {
            key: _as_json(item, fields[key].message_type if key in fields else None)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_as_json(item, descriptor) for item in value]
    if isinstance(value, datetime) and value.tzinfo is None:
        raise ValueError(f"{value.isoformat()}: a time needs an offset, such as Z or +02:00")
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if descriptor is not None and descriptor.full_name == "google.protobuf.Duration":
        span = _SPAN.fullmatch(value) if isinstance(value, str) else None
        if span is None:
            raise ValueError(f"{value!r} is no duration, such as 90s, 5m or 2h")
        return f"{float(span[1]) * _UNITS[span[2]]:.9f}s"
    return value


def _in_one_line(path: Path, name: str, reason: str) -> str:
    return " ".join(f"{path}: schedule {name!r}: {reason}".split())


def _spelled(field: str) -> str:
    """A field of the contract as the file spells it."""
    for prefix in ("task.dynamic.", "task."):
        if field.startswith(prefix):
            return field.removeprefix(prefix)
    return "name" if field == "schedule_id" else field


def _table(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name}: must be a table")
    return value


def _refuse_unknown(table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
            raise ValueError(f"{key}: unknown{hint}")
