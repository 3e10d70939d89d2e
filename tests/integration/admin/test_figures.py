"""Figures follow every way a task can change; `counted` compares them with the truth."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from psycopg.sql import SQL, Literal

from tests.integration.admin.toolkit import EXPIRED, Admin
from tests.sql import Inspector
from tests.toolkit import Api, eventually, request, seconds
from workerqueue.v1 import task_admin_pb2


async def test_job_keys_replace_and_follow(api: Api, admin: Admin, queue: str) -> None:
    for delay in (60.0, 0.0, 30.0, 0.0):
        await api.enqueue(queue=queue, job_key=queue, delay=seconds(delay), priority=int(delay))
    assert await admin.depths(queue) == {"available": 1}
    (leased,) = await api.take(queue)
    await api.enqueue(queue=queue, job_key=queue)
    assert await admin.depths(queue) == {"leased": 1, "blocked": 1}
    await api.fail(leased.lease_token)
    assert await admin.depths(queue) == {"dead": 1, "available": 1}
    await admin.stub.RemoveByJobKey(task_admin_pb2.RemoveByJobKeyRequest(job_key=queue))
    assert await admin.depths(queue) == {"dead": 1, "cancelled": 1}


async def test_clocks_move_tasks(api: Api, admin: Admin, queue: str) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    gone = await api.enqueue(queue=queue, expire_at=past, delay=seconds(600))
    await api.enqueue(queue=queue, delay=seconds(0.2), concurrency_key=queue)
    await api.enqueue(queue=queue, delay=seconds(0.2), concurrency_key=queue)
    await api.enqueue(queue=queue, delay=seconds(0.2))

    async def settled() -> bool:
        return (await admin.depths(queue)) == {"expired": 1, "available": 2, "blocked": 1}

    await eventually(settled, "what is due is available")
    assert (await admin.get(gone.task_id)).state == EXPIRED
    await api.take(queue, 2, lease_duration=1.0)

    async def lost() -> bool:
        return "leased" not in await admin.depths(queue)

    await eventually(lost, "leases without heartbeats are lost")


async def test_releases_and_snoozes(api: Api, admin: Admin, queue: str) -> None:
    await api.ids([request(queue=queue) for _ in range(3)])
    first, second, _ = await api.take(queue)
    await api.release(first.lease_token)
    await api.snooze(second.lease_token, 60)
    assert await admin.depths(queue) == {"available": 1, "scheduled": 1, "leased": 1}


async def test_changes_by_hand_are_counted_and_truncation_is_mended(
    api: Api, admin: Admin, sql: Inspector, queue: str
) -> None:
    first, second, _ = await api.ids([request(queue=queue) for _ in range(3)])
    await sql.rows("delete from workerqueue.tasks where id = %s", first)
    await sql.rows(
        "update workerqueue.tasks set state = 'scheduled', run_at = now() + interval '1 day'"
        " where id = %s",
        second,
    )
    assert await admin.depths(queue) == {"available": 1, "scheduled": 1}
    await sql.rows("delete from workerqueue.task_flows")
    await sql.rows("select workerqueue.recount_tasks()")
    assert await admin.depths(queue) == {"available": 1, "scheduled": 1}


async def test_one_session_counts_by_row_only_where_no_function_counts(
    api: Api, admin: Admin, sql: Inspector, queue: str
) -> None:
    """The question is answered once a statement, never for good: not in a prepared one either."""
    ids = await api.ids([request(queue=queue) for _ in range(4)])
    await sql.rows("prepare take_away (uuid) as delete from workerqueue.tasks where id = $1")
    for place, task_id in enumerate(ids[:3]):
        await sql.rows(
            "select set_config('workerqueue.counts_itself', %s, false)", "yes" if place == 1 else ""
        )
        await sql.connection.execute(SQL("execute take_away ({id})").format(id=Literal(task_id)))
    # The one in the middle said that it counts itself, and did not.
    assert await admin.depths(queue) == {"available": 2}
    await sql.rows("select workerqueue.recount_tasks()")
    assert await admin.depths(queue) == {"available": 1}
