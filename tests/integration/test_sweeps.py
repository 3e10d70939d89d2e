"""Sweeps find what no announcement told of, and read a bounded piece at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from psycopg import AsyncConnection

from tests.postgres import Database
from tests.sql import Inspector
from workerqueue_server.store.migrator import migrate
from workerqueue_server.store.records import (
    GrantRequest,
    LanePlace,
    NewTasks,
    SweptLane,
)
from workerqueue_server.store.tasks import TaskStore

TASKS = 2_500
PIECE = 1_000


@pytest.fixture
async def store(database: Database) -> AsyncIterator[TaskStore]:
    await migrate(database.dsn)
    store = TaskStore(database.dsn)
    yield store
    await store.close()


@pytest.fixture
async def sql(store: TaskStore, database: Database) -> AsyncIterator[Inspector]:
    async with await AsyncConnection.connect(database.dsn, autocommit=True) as connection:
        yield Inspector(connection)


async def lane_of_leases(store: TaskStore) -> tuple[int, int]:
    """A lane with many leases; its id and the position of the last."""
    (lane,) = await store.ensure_lanes([("q", "startRun", 0)])
    spec: dict[str, object] = {
        "lane_id": lane.lane_id,
        "priority": 0,
        "max_attempts": 3,
        "timeout_ms": 600_000,
        "lease_duration_ms": 600_000,
        "concurrency_limit": 1,
    }
    ids = [n.to_bytes(16, "big") for n in range(TASKS)]
    await store.enqueue(NewTasks(ids, [b""] * TASKS, [None] * TASKS, [0] * TASKS, [spec], False))
    runs = await store.grant([GrantRequest([lane.lane_id], [0], ["w"], TASKS, None, None)])
    assert sum(len(run.tokens) for run in runs) == TASKS
    return lane.lane_id, max(run.last_position for run in runs)


async def sweep(store: TaskStore, lane_id: int, cursor: int, start: int) -> SweptLane:
    (found,) = await store.sweep_lanes([LanePlace(lane_id, cursor, start)], PIECE)
    return found


async def test_a_task_missed_among_many_leases_is_found_piece_by_piece(
    store: TaskStore, sql: Inspector
) -> None:
    lane_id, cursor = await lane_of_leases(store)
    missed = await sql.value(
        "update workerqueue.tasks set state = 'available', lease_id = null"
        " where position = (select position from workerqueue.tasks order by position desc"
        "                    offset 100 limit 1) returning position"
    )
    starts = [0]
    while (found := await sweep(store, lane_id, cursor, starts[-1])).behind is None:
        starts.append(found.next_start)
    # Two pieces without it, then the one that has it.
    assert len(starts) == TASKS // PIECE + 1
    assert starts == sorted(starts)
    assert (found.behind, found.ahead, found.passed) == (missed, None, None)
    # Looked for from there until it is taken; then the lane is looked at from its start again.
    assert found.next_start == starts[-1]
    await sql.rows("delete from workerqueue.tasks where position = %s", missed)
    found = await sweep(store, lane_id, cursor, starts[-1])
    assert (found.behind, found.next_start) == (None, 0)


async def test_a_server_that_read_nothing_yet_passes_the_leases_of_others(
    store: TaskStore, sql: Inspector
) -> None:
    lane_id, last = await lane_of_leases(store)
    cursor = 0
    seen = 0
    while (found := await sweep(store, lane_id, cursor, 0)).passed is not None:
        assert found.ahead is None
        assert found.passed > cursor
        cursor = found.passed
        seen += 1
    assert seen == TASKS // PIECE
    assert cursor < last
    free = await sql.value(
        "update workerqueue.tasks set state = 'available', lease_id = null"
        " where position = %s returning position",
        last,
    )
    assert (await sweep(store, lane_id, cursor, 0)).ahead == free


async def test_a_lane_that_another_server_made_is_told_of(store: TaskStore) -> None:
    await lane_of_leases(store)
    (found,) = await store.sweep_lanes([], PIECE)
    assert (found.lane.queue, found.lane.kind) == ("q", "startRun")
