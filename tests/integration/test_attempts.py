"""Attempts: charged at the grant, ended by two clocks, retried with backoff, buried at the last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from tests.sql import Inspector
from tests.toolkit import AT_ONCE, Api, eventually, packed, refused, request, seconds
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import lease_pb2, policy_pb2, task_pb2

# Clocks are enforced within one second; the rest is for a machine that is busy with other tests.
SLACK_SECONDS = 1.0 + 2.0


async def wait_seconds(sql: Inspector, task_id: str) -> float:
    """How long the task waits from the end of its last attempt to its next."""
    value = await sql.value(
        "select extract(epoch from t.run_at - a.finished_at)::double precision"
        "  from workerqueue.tasks t join workerqueue.attempts a on a.task_id = t.id"
        " where t.id = %s order by a.lease_id desc limit 1",
        task_id,
    )
    return float(value)


async def failed_at(
    api: Api, queue: str, sql: Inspector, attempts: Sequence[int], **options: Any
) -> list[float]:
    """The waits after a failure of each of these attempts, one task for each."""
    ids = await api.ids([request(queue=queue, max_attempts=1000, **options) for _ in attempts])
    for task_id, attempt in zip(ids, attempts, strict=True):
        # Living through the waits before is not what this is about.
        await sql.rows(
            "update workerqueue.tasks set attempt = %s where id = %s", attempt - 1, task_id
        )
    leased = await api.take(queue)
    assert [task.attempt for task in leased] == list(attempts)
    for task in leased:
        await api.fail(task.lease_token)
    assert await sql.states(ids) == {"retrying": len(ids)}
    return [await wait_seconds(sql, task_id) for task_id in ids]


async def test_the_default_backoff_grows_as_promised(api: Api, queue: str, sql: Inspector) -> None:
    attempts = [*range(1, 13), 999]
    waits = await failed_at(api, queue, sql, attempts)
    for attempt, wait in zip(attempts, waits, strict=True):
        assert wait == pytest.approx(math.exp(min(attempt, 10)), rel=0.101)
    assert len({round(wait, 3) for wait in waits[9:]}) > 1, "without jitter"


async def test_a_retry_policy_replaces_the_curve(api: Api, queue: str, sql: Inspector) -> None:
    retry = policy_pb2.RetryPolicy(
        initial_backoff=seconds(100), multiplier=3, max_backoff=seconds(2_000), jitter=0
    )
    waits = await failed_at(api, queue, sql, [1, 2, 3, 4, 5, 999], retry=retry)
    assert waits == pytest.approx([100, 300, 900, 2_000, 2_000, 2_000], abs=0.01)


async def test_the_steepest_policy_reaches_the_last_attempt(
    api: Api, queue: str, sql: Inspector
) -> None:
    retry = policy_pb2.RetryPolicy(
        initial_backoff=seconds(86_400), multiplier=100, max_backoff=seconds(30 * 86_400), jitter=1
    )
    waits = await failed_at(api, queue, sql, [1, 150, 160, 500, 999], retry=retry)
    assert all(0 <= wait <= 60 * 86_400 for wait in waits)


async def test_a_jitter_of_next_to_nothing_is_none(api: Api, queue: str, sql: Inspector) -> None:
    """A share of the smallest double is no double."""
    for jitter in (5e-324, 1e-310, 1e-12):
        waits = await sql.rows(
            "select distinct workerqueue.backoff_ms(2, array[1000, 2, 60000, %s]) as ms"
            "  from generate_series(1, 1000)",
            jitter,
        )
        assert [wait["ms"] for wait in waits] == [2_000]
    retry = policy_pb2.RetryPolicy(initial_backoff=seconds(100), jitter=5e-324)
    assert await failed_at(api, queue, sql, [1] * 50, retry=retry) == [100] * 50


async def _is(sql: Inspector, task_id: str, state: str) -> bool:
    return await sql.state(task_id) == state


async def test_retry_after_overrides_the_backoff(api: Api, queue: str, sql: Inspector) -> None:
    task = await api.enqueue(queue=queue)
    (leased,) = await api.take(queue)
    await api.fail(leased.lease_token, retry_after=seconds(1234.5))
    assert await wait_seconds(sql, task.task_id) == pytest.approx(1234.5, abs=0.01)


async def test_a_failed_attempt_is_recorded_with_its_error(
    api: Api, queue: str, sql: Inspector
) -> None:
    task = await api.enqueue(queue=queue, max_attempts=2)
    for number in (1, 2):
        (leased,) = await api.take(queue, worker_id=f"worker-{number}")
        error = task_pb2.TaskError(
            type="ValueError", message=f"attempt {number}\x00", trace="x" * 40_000
        )
        await api.fail(leased.lease_token, error=error, retry_after=seconds(0))
        if number == 1:
            await eventually(lambda: _is(sql, task.task_id, "available"), "the task is due")
    row = await sql.task(task.task_id)
    assert (row["state"], row["attempt"]) == ("dead", 2)
    assert row["last_error"]["message"].startswith("attempt 2")
    attempts = await sql.attempts(task.task_id)
    assert [(a["attempt"], a["outcome"], a["worker_id"], a["error"]["type"]) for a in attempts] == [
        (1, "failed", "worker-1", "ValueError"),
        (2, "failed", "worker-2", "ValueError"),
    ]
    assert len(attempts[0]["error"]["trace"]) == 32 * 1024
    assert attempts[0]["started_at"] <= attempts[0]["finished_at"] <= attempts[1]["started_at"]


async def test_a_permanent_failure_buries_the_task_at_once(
    api: Api, queue: str, sql: Inspector
) -> None:
    task = await api.enqueue(queue=queue, max_attempts=10)
    (leased,) = await api.take(queue)
    await api.fail(leased.lease_token, permanent=True, error={"type": "Discard"})
    assert await sql.state(task.task_id) == "dead"
    assert await api.take(queue) == []


async def test_a_released_task_is_uncharged_and_keeps_its_place(
    api: Api, queue: str, sql: Inspector
) -> None:
    ids = await api.ids([request(queue=queue, max_attempts=1) for _ in range(4)])
    first, second = await api.take(queue, 2)
    await api.release(second.lease_token)
    await api.release(first.lease_token)
    again = await api.take(queue)
    assert [task.task_id for task in again] == ids
    assert {task.attempt for task in again} == {1}
    assert await sql.attempts(ids[0]) == []


async def test_a_snoozed_task_comes_back_uncharged(api: Api, queue: str, sql: Inspector) -> None:
    task = await api.enqueue(queue=queue, max_attempts=1)
    async with api.worker(queue) as worker:
        for _ in range(3):
            leased = await worker.task()
            assert leased.attempt == 1
            snooze = lease_pb2.Snooze(delay=seconds(0.05))
            await worker.send(
                nacks=[lease_pb2.NackRequest(lease_token=leased.lease_token, snooze=snooze)]
            )
        leased = await worker.task()
        await worker.acked(leased.lease_token)
    assert await sql.attempts(task.task_id) == []
    (leased_later,) = [await api.enqueue(queue=queue)]
    (leased,) = await api.take(queue)
    await api.snooze(leased.lease_token, 3600)
    row = await sql.task(leased_later.task_id)
    assert (row["state"], row["attempt"]) == ("scheduled", 0)


async def test_a_lease_without_heartbeat_is_lost_within_a_second_of_its_clock(
    api: Api, queue: str, sql: Inspector
) -> None:
    task = await api.enqueue(queue=queue, lease_duration=seconds(3), retry=AT_ONCE)
    async with api.worker(queue) as worker:
        first = await worker.task()
        reason = await worker.cancellation(first.lease_token)
        assert reason == lease_pb2.CANCELLATION_REASON_LEASE_LOST
        second = await worker.task()
        assert second.attempt == 2
        await worker.ack(first.lease_token)
        late = await worker.result(first.lease_token)
        assert late is not None
        assert late.reason == "LEASE_LOST"
        await worker.acked(second.lease_token)
    (attempt,) = await sql.attempts(task.task_id)
    assert attempt["outcome"] == "lost"
    ran = (attempt["finished_at"] - attempt["started_at"]).total_seconds()
    assert 3.0 <= ran <= 3.0 + SLACK_SECONDS


async def test_heartbeats_keep_a_lease_alive(api: Api, queue: str, sql: Inspector) -> None:
    task = await api.enqueue(queue=queue, lease_duration=seconds(3))
    async with api.worker(queue) as worker:
        leased = await worker.task()
        token = leased.lease_token

        async def beaten_for_two_lease_durations() -> bool:
            await worker.send(heartbeats=[lease_pb2.HeartbeatRequest(lease_token=token)])
            assert await worker.result(token, lease_pb2.LEASE_OPERATION_HEARTBEAT) is None
            return bool(
                await sql.value(
                    "select clock_timestamp() > started_at + interval '6 seconds'"
                    "  from workerqueue.tasks where id = %s",
                    task.task_id,
                )
            )

        await eventually(beaten_for_two_lease_durations, "two lease durations pass")
        assert worker.cancellations == []
        await worker.acked(token)
    assert (await sql.task(task.task_id))["attempt"] == 1


async def test_the_attempt_timeout_ends_an_attempt_whatever_its_heartbeats_say(
    api: Api, queue: str, sql: Inspector
) -> None:
    task = await api.enqueue(
        queue=queue, timeout=seconds(4), lease_duration=seconds(3), max_attempts=1
    )
    async with api.worker(queue) as worker:
        token = (await worker.task()).lease_token

        async def dead() -> bool:
            await worker.send(heartbeats=[lease_pb2.HeartbeatRequest(lease_token=token)])
            await worker.result(token, lease_pb2.LEASE_OPERATION_HEARTBEAT)
            return await sql.state(task.task_id) == "dead"

        await eventually(dead, "the attempt times out")
        await worker.cancellation(token)
    (attempt,) = await sql.attempts(task.task_id)
    assert attempt["outcome"] == "timed_out"
    assert attempt["error"]["type"] == "AttemptTimedOut"
    ran = (attempt["finished_at"] - attempt["started_at"]).total_seconds()
    assert 4.0 <= ran <= 4.0 + SLACK_SECONDS


async def test_a_timed_out_worker_is_told_so(api: Api, queue: str) -> None:
    await api.enqueue(queue=queue, timeout=seconds(0.3), max_attempts=1)
    async with api.worker(queue) as worker:
        leased = await worker.task()
        reason = await worker.cancellation(leased.lease_token)
        assert reason == lease_pb2.CANCELLATION_REASON_TIMED_OUT


async def test_attempts_never_exceed_the_maximum_when_workers_vanish(
    api: Api, queue: str, sql: Inspector
) -> None:
    task = await api.enqueue(queue=queue, timeout=seconds(0.2), max_attempts=3, retry=AT_ONCE)
    async with api.worker(queue) as worker:
        numbers = [leased.attempt for leased in await worker.tasks(3)]
        assert numbers == [1, 2, 3]
        await eventually(lambda: _is(sql, task.task_id, "dead"), "the last attempt ends")
        assert worker.untaken == []
    assert [a["outcome"] for a in await sql.attempts(task.task_id)] == ["timed_out"] * 3


async def test_many_leases_that_end_together_are_all_found(
    api: Api, queue: str, sql: Inspector
) -> None:
    ids = await api.ids(
        [request(queue=queue, timeout=seconds(0.5), max_attempts=1) for _ in range(3_000)]
    )
    assert len(await api.take(queue, 3_000)) == 3_000

    async def all_dead() -> bool:
        return await sql.states(ids) == {"dead": 3_000}

    await eventually(all_dead, "all are ended")
    late = await sql.value(
        "select max(extract(epoch from a.finished_at - a.started_at))::double precision"
        "  from workerqueue.attempts a where a.task_id = any (%s::uuid[])",
        ids,
    )
    assert late <= 0.5 + SLACK_SECONDS


async def test_leases_that_live_do_not_hide_those_that_ended(
    api: Api, queue: str, sql: Inspector
) -> None:
    """Thousands that heartbeats keep alive are looked at first, and are not in the way."""
    alive = await api.ids([request(queue=queue, timeout=seconds(600))] * 10_000)
    assert len(await api.take(queue, 10_000, lease_duration=300)) == 10_000
    lost = await api.enqueue(queue=queue, lease_duration=seconds(1), max_attempts=1)
    assert len(await api.take(queue)) == 1
    # As if all of them had been due for a look all the time, moved on by heartbeats since.
    await sql.rows(
        "update workerqueue.lease_checks set check_at = '-infinity' where ids && %s::uuid[]", alive
    )
    await eventually(lambda: _is(sql, lost.task_id, "dead"), "the lost lease is found")
    (attempt,) = await sql.attempts(lost.task_id)
    ran = (attempt["finished_at"] - attempt["started_at"]).total_seconds()
    assert ran <= 1.0 + SLACK_SECONDS
    assert await sql.states(alive) == {"leased": 10_000}


async def test_the_checkpoint_survives_a_lost_lease(api: Api, queue: str) -> None:
    await api.enqueue(queue=queue, lease_duration=seconds(3), retry=AT_ONCE)
    checkpoint = packed(tasks_pb2.RunFinished(id="half-way"))
    async with api.worker(queue) as worker:
        first = await worker.task()
        await api.heartbeat(first.lease_token, checkpoint=checkpoint)
        second = await worker.task()
        assert (second.attempt, second.checkpoint) == (2, checkpoint)


@pytest.mark.parametrize(
    ("nack", "field"),
    [
        ({}, "action"),
        ({"fail": lease_pb2.Fail(retry_after=seconds(-1))}, "fail.retry_after"),
        ({"fail": lease_pb2.Fail(retry_after=seconds(31 * 86400))}, "fail.retry_after"),
        ({"snooze": lease_pb2.Snooze()}, "snooze.delay"),
        ({"snooze": lease_pb2.Snooze(delay=seconds(31 * 86400))}, "snooze.delay"),
    ],
)
async def test_a_bad_nack_is_refused_by_field_and_changes_nothing(
    api: Api, queue: str, nack: dict[str, Any], field: str
) -> None:
    await api.enqueue(queue=queue)
    (leased,) = await api.take(queue)
    problem = await refused(
        api.stub.Nack(lease_pb2.NackRequest(lease_token=leased.lease_token, **nack))
    )
    assert list(problem.fields) == [field]
    await api.ack(leased.lease_token)
