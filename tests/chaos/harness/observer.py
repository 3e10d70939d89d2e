"""The database as it is: sampled while the episode runs, and read as a whole at its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any, LiteralString

import psycopg
from google.protobuf.any_pb2 import Any as AnyMessage
from psycopg import AsyncConnection

from tests.chaos.harness.checker import Attempt, Row, Truth
from tests.chaos.harness.history import Recorder
from tests.chaos.harness.producer import EACH, EACH_LIMIT, NARROW, NARROW_LIMIT, TICKS
from workerqueue.tasks.v1 import tasks_pb2

_SAMPLE_SECONDS = 0.2
_READ_SECONDS = 60.0
TICK_SECONDS = 2

# One snapshot each: limits are never exceeded in any of them.
_OVER: LiteralString = f"""
    select format('%s live leases of queue %s', count(*), l.queue)
      from workerqueue.tasks t join workerqueue.lanes l using (lane_id)
     where t.state = 'leased' and l.queue = '{NARROW}'
     group by l.queue having count(*) > {NARROW_LIMIT}
     union all
    select format('%s live leases of queue %s for %s', count(*), l.queue, t.worker_id)
      from workerqueue.tasks t join workerqueue.lanes l using (lane_id)
     where t.state = 'leased' and l.queue = '{EACH}'
     group by l.queue, t.worker_id having count(*) > {EACH_LIMIT}
     union all
    select format('%s tasks that hold key %s', count(*), t.concurrency_key)
      from workerqueue.tasks t
     where t.state in ('available', 'leased') and t.concurrency_key is not null
     group by t.concurrency_key having count(*) > max(t.concurrency_limit)
     union all
    select format('task %s is there %s times', h.id, count(*))
      from workerqueue.history h join workerqueue.tasks t using (id) group by h.id
     union all
    select format('%s leases that no check watches', count(*))
      from workerqueue.tasks t
     where t.state = 'leased'
       and t.lease_id not in (select w.lease_id from workerqueue.leased_tasks w)
    having count(*) > 0
"""
_FINISHED: LiteralString = """
    select h.id::text, h.state::text from workerqueue.history h
     where h.finished_at > clock_timestamp() - interval '1 second' limit 20
"""
_LIVE: LiteralString = "select count(*) from workerqueue.tasks"
_ROWS: LiteralString = """
    select t.id::text, t.state::text, t.attempt, t.max_attempts, coalesce(t.lease_id, 0),
           null::bytea, l.queue, t.metadata, true
      from workerqueue.tasks t join workerqueue.lanes l using (lane_id)
     union all
    select t.id::text, t.state::text, t.attempt, t.max_attempts, coalesce(t.lease_id, 0),
           t.result, l.queue, t.metadata, false
      from workerqueue.history t join workerqueue.lanes l using (lane_id)
"""
_ATTEMPTS: LiteralString = "select task_id::text, lease_id, attempt from workerqueue.attempts"
_TOLD: LiteralString = """
    select c.queue, c.state::text, sum(c.n)::integer
      from workerqueue.count_tasks(array(select distinct queue from workerqueue.lanes)) c
     group by 1, 2
"""


async def watch(dsn: Callable[[], str], recorder: Recorder) -> None:
    """Samples until cancelled, whenever the database answers."""
    while True:
        try:
            async with await AsyncConnection.connect(
                dsn(), autocommit=True, connect_timeout=2
            ) as connection:
                await connection.execute("set statement_timeout = '10s'")
                while True:
                    await _sample(connection, recorder)
                    await asyncio.sleep(_SAMPLE_SECONDS)
        except psycopg.Error:
            await asyncio.sleep(_SAMPLE_SECONDS)


async def _sample(connection: AsyncConnection[Any], recorder: Recorder) -> None:
    over = await (await connection.execute(_OVER)).fetchall()
    finished = await (await connection.execute(_FINISHED)).fetchall()
    recorder.write("sample", over=[text for (text,) in over], finished=dict(finished))


async def live_tasks(dsn: str) -> int:
    """How many tasks have not ended. Raises psycopg.Error."""
    async with await AsyncConnection.connect(dsn, connect_timeout=2) as connection:
        row = await (await connection.execute(_LIVE)).fetchone()
        assert row is not None
        return int(row[0])


async def read_truth(dsn: str) -> Truth:
    """The whole database, in one snapshot."""
    async with await AsyncConnection.connect(dsn, connect_timeout=10) as connection:
        await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        rows = await (await connection.execute(_ROWS)).fetchall()
        attempts = await (await connection.execute(_ATTEMPTS)).fetchall()
        told = await (await connection.execute(_TOLD)).fetchall()
    live: list[Row] = []
    finished: list[Row] = []
    ticks: list[tuple[str, int]] = []
    counted: dict[tuple[str, str], int] = {}
    for task, state, attempt, most, lease, result, queue, metadata, lives in rows:
        row = Row(task, state, attempt, most, lease, _result_lease(result), queue)
        (live if lives else finished).append(row)
        counted[queue, state] = counted.get((queue, state), 0) + 1
        if queue == TICKS:
            ticks.append((metadata["workerqueue.schedule"], _epoch(metadata["workerqueue.tick"])))
    return Truth(
        live=live,
        finished=finished,
        attempts=[Attempt(*row) for row in attempts],
        told={(queue, state): n for queue, state, n in told},
        counted=counted,
        ticks=ticks,
        tick_seconds=TICK_SECONDS,
        limits={NARROW: NARROW_LIMIT},
        worker_limits={EACH: EACH_LIMIT},
    )


def _result_lease(result: bytes | None) -> int:
    if result is None:
        return 0
    message = tasks_pb2.RunFinished()
    AnyMessage.FromString(result).Unpack(message)
    return int(message.id)


def _epoch(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())
