"""Cron expressions: which instants they mean, also where clocks change."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise, takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workerqueue_server.queue.cron import Cron, CronError

BERLIN = "Europe/Berlin"
NEW_YORK = "America/New_York"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def ticks(expression: str, zone: str, start: str, count: int) -> list[str]:
    """The next ticks, in UTC and without the year."""
    return [
        tick.strftime("%m-%dT%H:%MZ") for tick in Cron(expression, zone).first(count, at(start))
    ]


def test_the_next_tick_is_later_than_the_moment() -> None:
    cron = Cron("*/5 * * * *")
    assert cron.after(at("2026-01-01T00:05:00Z")) == at("2026-01-01T00:10:00Z")
    assert cron.after(at("2026-01-01T00:04:59.999999Z")) == at("2026-01-01T00:05:00Z")


def test_seconds_come_first() -> None:
    assert Cron("*/20 * * * * *").first(3, at("2026-01-01T00:00:00Z")) == [
        at("2026-01-01T00:00:20Z"),
        at("2026-01-01T00:00:40Z"),
        at("2026-01-01T00:01:00Z"),
    ]


@pytest.mark.parametrize(
    ("expression", "first"),
    [
        ("0 12 L * *", "2026-02-28T12:00:00Z"),
        ("0 12 LW 5 *", "2026-05-29T12:00:00Z"),
        ("0 12 * * MON#2", "2026-02-09T12:00:00Z"),
        ("0 12 * * 5L", "2026-02-27T12:00:00Z"),
        ("0 12 13 * FRI", "2026-02-06T12:00:00Z"),
        ("0 12 */13 * FRI", "2026-02-27T12:00:00Z"),
        ("@daily", "2026-02-02T00:00:00Z"),
        ("@Hourly", "2026-02-01T13:00:00Z"),
        ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
    ],
)
def test_forms(expression: str, first: str) -> None:
    assert Cron(expression).after(at("2026-02-01T12:00:00Z")) == at(first)


def test_fields_mean_local_time() -> None:
    assert ticks("0 9 * * *", BERLIN, "2026-01-14T12:00+00:00", 1) == ["01-15T08:00Z"]
    assert ticks("0 9 * * *", BERLIN, "2026-07-14T12:00+00:00", 1) == ["07-15T07:00Z"]
    assert ticks("0 9 * * *", NEW_YORK, "2026-01-14T22:00+00:00", 1) == ["01-15T14:00Z"]


@pytest.mark.parametrize(
    ("zone", "day", "gap_end", "following"),
    [
        # 2:00 becomes 3:00 on March 29 (UTC+1 to UTC+2) and on March 8 (UTC-5 to UTC-4).
        (BERLIN, "2026-03-28T12:00+00:00", "03-29T01:00Z", "03-30T00:30Z"),
        (NEW_YORK, "2026-03-07T12:00+00:00", "03-08T07:00Z", "03-09T06:30Z"),
    ],
)
def test_a_fixed_time_in_the_gap_comes_at_its_end(
    zone: str, day: str, gap_end: str, following: str
) -> None:
    assert ticks("30 2 * * *", zone, day, 2) == [gap_end, following]
    # All times in the gap come as one, and as one with the time that is its end.
    assert ticks("0,30 2 * * *", zone, day, 1) == [gap_end]
    assert ticks("0,30 2-3 * * *", zone, day, 2)[0] == gap_end


@pytest.mark.parametrize(
    ("zone", "day", "first_pass", "following"),
    [
        # 3:00 becomes 2:00 on October 25; 2:00 becomes 1:00 on November 1.
        (BERLIN, "2026-10-24T12:00+00:00", "10-25T00:30Z", "10-26T01:30Z"),
        (NEW_YORK, "2026-10-31T12:00+00:00", "11-01T05:30Z", "11-02T06:30Z"),
    ],
)
def test_a_fixed_time_in_the_hour_that_comes_twice_comes_once(
    zone: str, day: str, first_pass: str, following: str
) -> None:
    hour = 2 if zone == BERLIN else 1
    assert ticks(f"30 {hour} * * *", zone, day, 2) == [first_pass, following]


def test_a_fixed_time_is_not_repeated_for_who_asks_in_the_second_pass() -> None:
    cron = Cron("45 2 * * *", BERLIN)
    # 2:30 in the second pass: 2:45 is ahead on the wall, but has been.
    assert cron.after(at("2026-10-25T02:30+01:00")) == at("2026-10-26T02:45+01:00")
    # And in the first pass it is ahead.
    assert cron.after(at("2026-10-25T02:30+02:00")) == at("2026-10-25T02:45+02:00")


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK])
def test_intervals_go_by_the_time_that_passes(zone: str) -> None:
    for day in ("2026-03-08", "2026-03-29", "2026-10-25", "2026-11-01"):
        start = at(f"{day}T00:00+00:00")
        found = Cron("*/30 * * * *", zone).first(48, start)
        assert [tick - start for tick in found] == [timedelta(minutes=30 * n) for n in range(1, 49)]


def test_every_other_hour_leaves_out_what_is_in_the_gap() -> None:
    assert ticks("30 */2 * * *", BERLIN, "2026-03-28T23:00+00:00", 2) == [
        "03-28T23:30Z",
        "03-29T02:30Z",
    ]


def test_with_seconds_a_time_in_the_gap_does_not_come_and_one_in_the_fold_comes_twice() -> None:
    assert ticks("0 30 2 * * *", BERLIN, "2026-03-28T12:00+00:00", 1) == ["03-30T00:30Z"]
    assert ticks("0 30 2 * * *", BERLIN, "2026-10-24T12:00+00:00", 3) == [
        "10-25T00:30Z",
        "10-25T01:30Z",
        "10-26T01:30Z",
    ]


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("", "is required"),
        ("  ", "is required"),
        ("* * * *", "five fields"),
        ("60 * * * *", "bad minute"),
        ("* 24 * * *", "bad hour"),
        ("* * 0 * *", "bad day-of-month"),
        ("* * * 13 *", "bad month"),
        ("* * * * MOON", "bad day-of-week"),
        ("60 * * * * *", "bad second"),
        ("0 0 30 2 *", "bad day-of-month"),
        ("* * */20 * 1L", "never comes true"),
        ("0 0 * * MON#1/2", "bad day-of-week"),
        ("@reboot", "@hourly"),
        ("*," * 200 + "* * * * *", "256 characters"),
    ],
)
def test_a_wrong_expression_is_refused_with_a_reason(expression: str, reason: str) -> None:
    with pytest.raises(CronError, match=re.escape(reason)) as caught:
        Cron(expression)
    assert caught.value.field == "cron"


def test_a_wrong_time_zone_is_refused_with_similar_ones() -> None:
    with pytest.raises(CronError, match="did you mean Europe/Berlin") as caught:
        Cron("* * * * *", "Europe/Berlni")
    assert caught.value.field == "time_zone"
    for name in ("", "localtime", "../../etc/passwd", "america/new_york", "x" * 10_000):
        with pytest.raises(CronError, match="no such IANA time zone"):
            Cron("* * * * *", name)


def test_far_ends_of_time_are_no_ticks() -> None:
    assert Cron("0 0 1 1 *", NEW_YORK).after(datetime(9999, 12, 31, 23, tzinfo=UTC)) is None


# Properties.

_NUMBERS = {
    "second": (0, 59),
    "minute": (0, 59),
    "hour": (0, 23),
    "day": (1, 28),
    "month": (1, 12),
    "weekday": (0, 7),
}


@st.composite
def fields(draw: st.DrawFn, name: str) -> str:
    low, high = _NUMBERS[name]
    number = st.integers(low, high)
    form = draw(st.sampled_from(("*", "*", "*/", "n", "n", "list", "range")))
    if form == "*/":
        return f"*/{draw(st.integers(1, high))}"
    if form == "list":
        return ",".join(map(str, draw(st.lists(number, min_size=1, max_size=4))))
    if form == "range":
        first, last = sorted((draw(number), draw(number)))
        return f"{first}-{last}"
    return "*" if form == "*" else str(draw(number))


@st.composite
def expressions(draw: st.DrawFn) -> str:
    names = ["minute", "hour", "day", "month", "weekday"]
    if draw(st.booleans()):
        names.insert(0, "second")
    return " ".join(draw(fields(name)) for name in names)


ZONES = st.sampled_from(
    ("UTC", BERLIN, NEW_YORK, "Australia/Lord_Howe", "America/Havana", "Asia/Kathmandu")
)
# Close to the clock changes, where it is hard.
MOMENTS = st.one_of(
    st.datetimes(
        datetime.fromisoformat("2024-01-01"),
        datetime.fromisoformat("2028-01-01"),
        timezones=st.just(UTC),
    ),
    *(
        st.datetimes(
            datetime.fromisoformat(f"{day}T00:00"),
            datetime.fromisoformat(f"{day}T12:00"),
            timezones=st.just(UTC),
        )
        for day in ("2026-03-08", "2026-03-29", "2026-10-25", "2026-11-01", "2026-04-04")
    ),
)


@given(expressions(), ZONES, MOMENTS)
@settings(deadline=None)
def test_ticks_rise_and_asking_anew_after_each_gives_the_same(
    expression: str, zone: str, moment: datetime
) -> None:
    cron = Cron(expression, zone)
    found = cron.first(8, moment)
    assert all(earlier < later for earlier, later in pairwise([moment, *found]))
    assert all(tick.microsecond == 0 for tick in found)
    assert [cron.after(earlier) for earlier in [moment, *found[:-1]]] == (found or [None])  # type: ignore[list-item]


@given(
    expressions(),
    ZONES,
    MOMENTS,
    st.integers(1, 20),
    st.timedeltas(timedelta(0), timedelta(days=3)),
)
@settings(deadline=None)
def test_the_last_ticks_of_a_span_are_the_last_of_all_its_ticks(
    expression: str, zone: str, moment: datetime, count: int, span: timedelta
) -> None:
    if len(expression.split()) == 6:
        span /= 500
    cron = Cron(expression, zone)
    end = moment + span
    every = list(takewhile(lambda tick: tick <= end, cron.ticks(moment)))
    assert cron.last(count, moment, end) == every[-count:]


@given(st.text("0123456789*/,-#L WMONTUE@", max_size=40))
@settings(deadline=None)
def test_nonsense_is_refused_and_breaks_nothing(expression: str) -> None:
    try:
        cron = Cron(expression)
    except CronError:
        return
    assert len(cron.first(2, at("2026-01-01T00:00Z"))) <= 2
