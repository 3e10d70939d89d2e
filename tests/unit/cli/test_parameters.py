"""Arguments: spans, times, limits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest

from workerqueue_server.cli import parameters


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30),
        ("0.5", 0.5),
        ("250ms", 0.25),
        ("90s", 90),
        ("1h30m", 5400),
        ("2d", 172_800),
        ("1w", 604_800),
        ("1.5h", 5400),
    ],
)
def test_a_span_is_read(text: str, seconds: float) -> None:
    assert parameters.parse_span(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "soon", "5 m", "-5m", "5x", "m5", "1h30", "1e3", "٣s"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no duration"):
        parameters.SPAN.convert(text, None, None)


def test_a_span_too_long_for_any_calendar_is_refused() -> None:
    with pytest.raises(click.BadParameter):
        parameters.SPAN.convert("9" * 40 + "d", None, None)
    with pytest.raises(click.BadParameter):
        parameters.PAST.convert("9999999d", None, None)


def test_a_bare_span_counts_from_now_in_the_direction_that_is_meant() -> None:
    before = datetime.now(UTC)
    past = parameters.PAST.convert("1h", None, None)
    future = parameters.FUTURE.convert("1h", None, None)
    after = datetime.now(UTC)
    hour = timedelta(hours=1)
    assert before - hour <= past <= after - hour
    assert before + hour <= future <= after + hour


def test_a_time_keeps_its_zone() -> None:
    moment = parameters.FUTURE.convert("2026-03-29T03:30:00+02:00", None, None)
    assert moment == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


def test_a_time_without_a_zone_is_this_machines() -> None:
    moment = parameters.FUTURE.convert("2026-01-31T12:00", None, None)
    assert moment.tzinfo is not None
    assert moment.replace(tzinfo=None) == datetime(2026, 1, 31, 12)  # noqa: DTZ001 - local on purpose


def test_a_limit_of_zero_must_be_said_in_words() -> None:
    assert parameters.LIMIT.convert("none", None, None) == 0
    assert parameters.LIMIT.convert("7", None, None) == 7
    for wrong in ("0", "-1", "many"):
        with pytest.raises(click.BadParameter):
            parameters.LIMIT.convert(wrong, None, None)


def test_the_states_are_the_contracts() -> None:
    from workerqueue.v1 import task_pb2

    names = [n.removeprefix("TASK_STATE_").lower() for n in task_pb2.TaskState.keys()]  # noqa: SIM118
    assert set(parameters.STATES) == set(names) - {"unspecified"}
