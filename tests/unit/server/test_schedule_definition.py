"""From a definition to the task of a tick."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from hypothesis import given
from hypothesis import strategies as st

from tests.toolkit import request, seconds
from workerqueue.v1 import schedule_pb2
from workerqueue_server.queue.schedule_definition import (
    Definition,
    load_definition,
    stored_definition,
    tick_task_id,
    ticks_alike,
)

UID = uuid.UUID("6f0c1c9e-6f3c-4f62-8f0e-0d5b8b7f9a11").bytes
OTHER = uuid.UUID("6f0c1c9e-6f3c-4f62-8f0e-0d5b8b7f9a12").bytes
TICK = datetime(2026, 3, 29, 1, tzinfo=UTC)


def definition(**fields: Any) -> Definition:
    fields = {"schedule_id": "s", "cron": "0 3 * * *", "task": request(), **fields}
    return load_definition(stored_definition(schedule_pb2.Schedule(**fields)))


def test_the_id_follows_from_schedule_and_tick() -> None:
    task_id = tick_task_id(UID, TICK)
    assert task_id == tick_task_id(UID, TICK.astimezone())
    assert len({task_id, tick_task_id(OTHER, TICK), tick_task_id(UID, TICK + timedelta(1))}) == 3
    parsed = uuid.UUID(bytes=task_id)
    assert (parsed.version, parsed.variant) == (8, uuid.RFC_4122)
    # The same in every release, for ever: servers of two releases share a tick.
    assert str(parsed) == "019d371a-da80-8773-908d-0220988b0d0f"


@given(st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - hypothesis wants naive bounds
def test_ids_sort_by_tick(tick: datetime) -> None:
    tick = tick.replace(microsecond=0)
    assert tick_task_id(UID, tick) < tick_task_id(OTHER, tick + timedelta(seconds=1))


def test_a_ticks_request_carries_schedule_and_tick() -> None:
    made = definition(task=request(queue="q", metadata={"mine": "1"})).request_at(TICK, uid=UID)
    assert dict(made.options.metadata) == {
        "mine": "1",
        "workerqueue.schedule": "s",
        "workerqueue.tick": "2026-03-29T01:00:00Z",
    }
    assert made.task_id == str(uuid.UUID(bytes=tick_task_id(UID, TICK)))
    assert made.options.WhichOneof("when") is None
    assert not made.options.HasField("expire_at")


def test_the_definition_stays_as_it_was() -> None:
    """It is cached, and the next tick reads it again."""
    read = definition(jitter=seconds(60), expire_after=seconds(60))
    before = read.message.SerializeToString(deterministic=True)
    read.request_at(TICK, uid=UID)
    assert read.message.SerializeToString(deterministic=True) == before


@given(st.integers(1, 86_400), st.integers(0, 10_000))
def test_jitter_follows_from_schedule_and_tick_and_stays_within(jitter: int, days: int) -> None:
    read = definition(jitter=seconds(jitter))
    tick = TICK + timedelta(days=days)
    made = read.request_at(tick, uid=UID)
    assert made == read.request_at(tick, uid=UID)
    if made.options.HasField("run_at"):
        assert timedelta(0) <= made.options.run_at.ToDatetime(UTC) - tick
        assert made.options.run_at.ToDatetime(UTC) - tick <= timedelta(seconds=jitter)


def test_jitter_is_spread_evenly() -> None:
    read = definition(jitter=seconds(1000))
    waits = sorted(
        (read.request_at(tick, uid=UID).options.run_at.ToDatetime(UTC) - tick).total_seconds()
        for tick in (TICK + timedelta(days=n) for n in range(1000))
    )
    assert all(abs(wait - place) < 60 for place, wait in enumerate(waits))


def test_delay_and_jitter_add_up_and_expiry_counts_from_the_tick() -> None:
    read = definition(
        task=request(delay=seconds(100)), jitter=seconds(10), expire_after=seconds(3600)
    )
    options = read.request_at(TICK, uid=UID).options
    wait = options.run_at.ToDatetime(UTC) - TICK
    assert timedelta(seconds=100) < wait <= timedelta(seconds=110)
    assert options.expire_at.ToDatetime(UTC) == TICK + timedelta(hours=1)


def test_a_trigger_has_the_callers_id_and_no_jitter() -> None:
    read = definition(task=request(delay=seconds(100)), jitter=seconds(10))
    made = read.request_at(TICK, uid=None, task_id="x")
    assert made.task_id == "x"
    assert made.options.delay.seconds == 100


def test_output_fields_and_the_pause_are_not_stored() -> None:
    message = schedule_pb2.Schedule(
        schedule_id="s", cron="0 3 * * *", paused=True, source="x", tasks_made=5
    )
    message.next_run_times.add(seconds=5)
    assert stored_definition(message) == stored_definition(
        schedule_pb2.Schedule(schedule_id="s", cron="0 3 * * *")
    )


def test_fields_of_a_newer_release_are_kept() -> None:
    newer = schedule_pb2.Schedule(schedule_id="s", cron="0 3 * * *").SerializeToString()
    # Field 1000, a string.
    newer += bytes([0xC2, 0x3E, 3]) + b"new"
    assert stored_definition(schedule_pb2.Schedule.FromString(newer)).endswith(b"new")


def test_what_makes_other_ticks() -> None:
    one = schedule_pb2.Schedule(cron="0 3 * * *", description="one")
    assert ticks_alike(one, schedule_pb2.Schedule(cron="0 3 * * *", time_zone="UTC"))
    for other in (
        schedule_pb2.Schedule(cron="0 4 * * *"),
        schedule_pb2.Schedule(cron="0 3 * * *", time_zone="Europe/Berlin"),
        schedule_pb2.Schedule(cron="0 3 * * *", start_at={"seconds": 0}),
        schedule_pb2.Schedule(cron="0 3 * * *", end_at={"seconds": 5}),
    ):
        assert not ticks_alike(one, other)


def test_every_field_is_stored_or_an_output() -> None:
    """A new field of the contract must be on one side."""
    proto = FileDescriptorProto()
    schedule_pb2.DESCRIPTOR.CopyToProto(proto)
    (schedule,) = [message for message in proto.message_type if message.name == "Schedule"]
    full = schedule_pb2.Schedule()
    for field in schedule.field:
        if field.label == field.LABEL_REPEATED:
            getattr(full, field.name).add()
        elif field.type == field.TYPE_MESSAGE:
            getattr(full, field.name).SetInParent()
        elif field.type == field.TYPE_STRING:
            setattr(full, field.name, "x")
        else:
            setattr(full, field.name, 1)
    kept = {
        field.name
        for field, _ in schedule_pb2.Schedule.FromString(stored_definition(full)).ListFields()
    }
    assert kept == {
        *("schedule_id", "cron", "time_zone", "task", "catch_up", "catch_up_limit", "late_after"),
        *("overlap", "jitter", "expire_after", "start_at", "end_at", "description"),
    }
