"""Which ticks make tasks: catch-up, start and end."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from workerqueue_server.queue.cron import Cron
from workerqueue_server.queue.ticks import CatchUp, Due, Rule, due

EVERY_MINUTE = Rule(Cron("* * * * *"), late_after=timedelta(minutes=2))
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def minutes(*numbers: int) -> list[datetime]:
    return [NOON + timedelta(minutes=number) for number in numbers]


def at(rule: Rule, since: int, now: float) -> Due:
    return due(rule, NOON + timedelta(minutes=since), NOON + timedelta(minutes=now))


def test_a_tick_in_time_makes_its_task_under_every_policy() -> None:
    for policy in CatchUp:
        rule = replace(EVERY_MINUTE, catch_up=policy, catch_up_limit=1)
        (next_tick,) = minutes(1)
        assert at(rule, 0, 0.5) == Due(minutes(0), minutes(0)[0], False, next_tick)


def test_ticks_that_are_not_late_yet_all_make_tasks() -> None:
    for policy in CatchUp:
        rule = replace(EVERY_MINUTE, catch_up=policy, catch_up_limit=1)
        assert at(rule, 9, 10.5).ticks == minutes(9, 10)
        assert not at(rule, 9, 10.5).dropped


def test_skip_drops_late_ticks() -> None:
    rule = replace(EVERY_MINUTE, catch_up=CatchUp.SKIP)
    assert at(rule, 0, 10.5) == Due(minutes(9, 10), minutes(10)[0], True, minutes(11)[0])
    rule = replace(rule, cron=Cron("0 * * * *"))
    assert at(rule, 0, 10) == Due([], NOON, True, NOON + timedelta(hours=1))


def test_latest_makes_up_for_one_unless_a_later_tick_is_in_time() -> None:
    assert at(EVERY_MINUTE, 0, 10.5).ticks == minutes(9, 10)
    hourly = replace(EVERY_MINUTE, cron=Cron("0 * * * *"))
    result = due(hourly, NOON, NOON + timedelta(hours=5, minutes=30))
    assert result.ticks == [NOON + timedelta(hours=5)]
    assert result.dropped


def test_all_makes_up_for_the_latest_so_many_oldest_first() -> None:
    rule = replace(EVERY_MINUTE, catch_up=CatchUp.ALL, catch_up_limit=4)
    assert at(rule, 0, 10.5) == Due(minutes(7, 8, 9, 10), minutes(10)[0], True, minutes(11)[0])
    assert at(rule, 7, 10.5) == Due(minutes(7, 8, 9, 10), minutes(10)[0], False, minutes(11)[0])


def test_the_end_is_no_tick_and_the_start_is_one() -> None:
    rule = replace(EVERY_MINUTE, start=minutes(5)[0], end=minutes(7)[0])
    assert rule.first(5, NOON) == minutes(5, 6)
    assert rule.after(minutes(6)[0]) is None
    catch_up = replace(rule, catch_up=CatchUp.ALL)
    assert at(catch_up, 5, 60) == Due(minutes(5, 6), minutes(6)[0], False, None)


def test_a_long_outage_of_a_busy_schedule_is_cheap_to_make_up_for() -> None:
    """A walk through ten years of seconds would take half an hour."""
    rule = Rule(
        Cron("* * * * * *"), CatchUp.ALL, catch_up_limit=10, late_after=timedelta(seconds=1)
    )
    now = NOON + timedelta(days=3650)
    assert due(rule, NOON, now).ticks == [now - timedelta(seconds=n) for n in range(9, -1, -1)]


@given(
    st.sampled_from(CatchUp),
    st.integers(1, 10),
    st.lists(st.floats(0.01, 30), min_size=1, max_size=10),
    st.floats(0.5, 5),
)
def test_however_often_somebody_looks_no_tick_is_dealt_with_twice_or_forgotten(
    policy: CatchUp, limit: int, waits: list[float], late_after: float
) -> None:
    rule = replace(
        EVERY_MINUTE,
        catch_up=policy,
        catch_up_limit=limit,
        late_after=timedelta(minutes=late_after),
    )
    now, next_tick = NOON, NOON
    made: list[datetime] = []
    for wait in waits:
        now += timedelta(minutes=wait)
        if next_tick > now:
            continue
        result = due(rule, next_tick, now)
        # Whatever is in time makes a task.
        in_time = [
            tick
            for tick in rule.cron.first(40, next_tick - timedelta(seconds=1))
            if now - rule.late_after < tick <= now
        ]
        assert set(in_time) <= set(result.ticks)
        assert all(next_tick <= tick <= now for tick in result.ticks)
        assert result.next is not None
        assert result.next > now
        if policy is CatchUp.LATEST:
            assert result.ticks
        if policy is CatchUp.ALL:
            assert len(result.ticks) <= max(limit, len(in_time))
            assert result.dropped == (result.ticks[0] - timedelta(minutes=1) >= next_tick)
        made += result.ticks
        next_tick = result.next
    assert made == sorted(set(made))
