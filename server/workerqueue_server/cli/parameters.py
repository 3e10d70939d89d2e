"""Types of arguments: spans of time, points in time, states, notes, JSON."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[smhdw])")

STATES = (
    *("scheduled", "available", "blocked", "leased", "retrying"),
    *("succeeded", "dead", "cancelled", "expired"),
)


def parse_span(text: str) -> timedelta | None:
    """`90s`, `1h30m`, `2d`, `250ms` or a number of seconds; None: none of these."""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return timedelta(seconds=float(text))
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in parts))


class Span(click.ParamType):  # type: ignore[type-arg]
    """A span of time, as a timedelta."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """Reads it."""
        if isinstance(value, timedelta):
            return value
        try:
            parsed = parse_span(value)
        except OverflowError:
            parsed = None
        if parsed is None:
            self.fail(f"{value!r} is no duration; write 30s, 5m, 1h30m, 2d or 250ms", param, ctx)
        return parsed


class Moment(click.ParamType):  # type: ignore[type-arg]
    """A point in time, as an aware datetime; a bare span means before or after now."""

    name = "time"

    def __init__(self, *, past: bool) -> None:
        """``past``: whether a span counts back from now."""
        self._past = past

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Reads it. A time without a zone is of this machine's time zone."""
        if isinstance(value, datetime):
            return value
        now = datetime.now(UTC)
        try:
            if value == "now":
                return now
            if (span := parse_span(value)) is not None:
                return now - span if self._past else now + span
            return datetime.fromisoformat(value).astimezone()
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is no time; write 2026-01-31T12:00:00+01:00, or a span from now such "
                "as 5m or 2h",
                param,
                ctx,
            )


class Note(click.ParamType):  # type: ignore[type-arg]
    """KEY=VALUE."""

    name = "key=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Splits it at the first equals sign."""
        if isinstance(value, tuple):
            return value
        key, equals, note = value.partition("=")
        if not equals or not key:
            self.fail(f"{value!r} must be KEY=VALUE", param, ctx)
        return key, note


class Limit(click.ParamType):  # type: ignore[type-arg]
    """A number, or `none` for no limit, which the contract says as 0."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Reads it."""
        if isinstance(value, int):
            return value
        if value == "none":
            return 0
        if not value.isdecimal() or int(value) == 0:
            self.fail(f"{value!r} must be a number above 0, or none for no limit", param, ctx)
        return int(value)


SPAN = Span()
PAST = Moment(past=True)
FUTURE = Moment(past=False)
NOTE = Note()
LIMIT = Limit()
STATE = click.Choice(STATES, case_sensitive=False)


def read_argument(argument: str) -> str:
    """The argument itself, the file after `@`, or standard input for `-`."""
    if argument == "-":
        return sys.stdin.read()
    if not argument.startswith("@"):
        return argument
    path = Path(argument[1:])
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"{path} is no UTF-8 text") from None


def parse_object(text: str, what: str) -> dict[str, Any]:
    """The JSON object in the text."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise click.UsageError(
            f"{what} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    if not isinstance(value, dict):
        raise click.UsageError(f'{what} must be a JSON object, such as {{"id": "run_1"}}')
    return value


def state_values(names: Sequence[str]) -> list[Any]:
    """The contract's values of states."""
    from workerqueue.v1 import task_pb2

    return [task_pb2.TaskState.Value(f"TASK_STATE_{name.upper()}") for name in names]
