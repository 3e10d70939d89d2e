"""From Python's times and durations to protobuf's, with refusals a caller understands."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp


def to_seconds(value: timedelta | float, name: str) -> float:
    """A duration in seconds.

    Raises:
        TypeError: ``value`` is neither a timedelta nor a number.
        ValueError: ``value`` is negative, infinite or not a number.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a timedelta or a number of seconds, not {value!r}")
    else:
        seconds = float(value)
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{name} must be a finite duration of 0 or more, not {value!r}")
    return seconds


def to_duration(value: timedelta | float, name: str) -> Duration:
    """A protobuf Duration; errors as in ``to_seconds``."""
    nanos = round(to_seconds(value, name) * 1_000_000_000)
    return Duration(seconds=nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)


def to_timestamp(value: datetime, name: str) -> Timestamp:
    """A protobuf Timestamp.

    Raises:
        TypeError: ``value`` is not a datetime.
        ValueError: ``value`` has no time zone.
    """
    if not isinstance(value, datetime):
        raise TypeError(f"{name} must be a datetime, not {value!r}")
    if value.utcoffset() is None:
        raise ValueError(
            f"{name} has no time zone, so it names no point in time; "
            "use an aware datetime such as datetime.now(timezone.utc)"
        )
    stamp = Timestamp()
    stamp.FromDatetime(value)
    return stamp


def from_duration(value: Duration) -> float:
    """Seconds."""
    return value.seconds + value.nanos / 1_000_000_000
