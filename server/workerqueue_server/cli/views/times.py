"""Times, durations and numbers for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.timestamp_pb2 import Timestamp

_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def seconds_of(duration: Duration) -> float:
    """A Duration in seconds."""
    return duration.seconds + duration.nanos / 1e9


def span(seconds: float) -> str:
    """A span of time in its two largest units: `1h5m`, `3.2s`, `250ms`, `14d`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms" if seconds >= 0.001 or seconds == 0 else "<1ms"
    if seconds < 59.95:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    whole = round(seconds)
    parts: list[str] = []
    for unit, size in _UNITS:
        count, whole = divmod(whole, size)
        if count or parts:
            parts.append(f"{count}{unit}" if count else "")
        if len(parts) == 2:
            break
    return "".join(parts)


def duration(value: Duration) -> str:
    """A Duration as `span`."""
    return span(seconds_of(value))


def moment(stamp: Timestamp) -> str:
    """A point in time, in this machine's time zone; empty if it is not set."""
    if not stamp.ByteSize():
        return ""
    return _local(stamp).strftime("%Y-%m-%d %H:%M:%S %Z")


def relative(stamp: Timestamp, now: datetime) -> str:
    """A point in time seen from now: `3m ago`, `in 2h`; empty if it is not set."""
    if not stamp.ByteSize():
        return ""
    seconds = (stamp.ToDatetime(UTC) - now).total_seconds()
    return f"in {span(seconds)}" if seconds > 0 else f"{span(-seconds)} ago"


def moment_with_age(stamp: Timestamp, now: datetime) -> str:
    """Both: `2026-01-31 12:00:00 CET (3m ago)`."""
    return f"{moment(stamp)} ({relative(stamp, now)})" if stamp.ByteSize() else ""


def clock() -> datetime:
    """This machine's time. Ages are off by as much as it differs from the database's."""
    return datetime.now(UTC)


def count(number: int) -> str:
    """A number with its thousands apart."""
    return f"{number:,}"


def rate(per_second: float) -> str:
    """Tasks per second."""
    if per_second == 0:
        return "-"
    if per_second < 0.1:
        return "<0.1/s"
    return f"{per_second:,.0f}/s" if per_second >= 100 else f"{per_second:.1f}/s"


def _local(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(UTC).astimezone()
