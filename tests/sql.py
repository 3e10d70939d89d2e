"""A look into the server's tables, for what no RPC tells a worker or a producer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from tests.toolkit import eventually

Row = dict[str, Any]


class Inspector:
    """Reads tasks, live or finished, and what became of their attempts."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self.connection = connection

    async def rows(self, query: LiteralString, *parameters: object) -> list[Row]:
        """The rows of a query."""
        async with self.connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(query, parameters)
            return await cursor.fetchall() if cursor.description else []

    async def value(self, query: LiteralString, *parameters: object) -> Any:
        """The only value of a query."""
        (row,) = await self.rows(query, *parameters)
        (value,) = row.values()
        return value

    async def task(self, task_id: str) -> Row:
        """A task, live or finished."""
        rows = await self.rows(
            """
            select id, state::text, attempt, worker_id, created_at, run_at, started_at,
                   null::timestamptz as finished_at, last_error, progress, progress_message,
                   checkpoint, null::bytea as result, lease_expires_at, attempt_deadline
              from workerqueue.tasks where id = %s
            union all
            select id, state::text, attempt, worker_id, created_at, run_at, started_at,
                   finished_at, last_error, progress, progress_message,
                   checkpoint, result, null, null
              from workerqueue.history where id = %s
            """,
            task_id,
            task_id,
        )
        assert len(rows) == 1, rows
        return rows[0]

    async def state(self, task_id: str) -> str:
        """A task's state."""
        state: str = (await self.task(task_id))["state"]
        return state

    async def attempts(self, task_id: str) -> list[Row]:
        """The recorded attempts of a task, oldest first."""
        return await self.rows(
            "select attempt, outcome::text, worker_id, error, started_at, finished_at"
            "  from workerqueue.attempts where task_id = %s order by lease_id",
            task_id,
        )

    async def states(self, task_ids: Sequence[str]) -> dict[str, int]:
        """How many of the tasks are in each state."""
        rows = await self.rows(
            """
            select state::text, count(*)::integer as n
              from (select id, state from workerqueue.tasks
                     union all
                    select id, state from workerqueue.history) t
             where id = any (%s::uuid[])
             group by 1
            """,
            list(task_ids),
        )
        return {row["state"]: row["n"] for row in rows}

    async def fold_flows(self) -> None:
        """Moves all flows into the sums of the statistics.

        Servers do so from time to time, and only one at a time can.
        """

        async def none_left() -> bool:
            await self.value("select workerqueue.fold_flows(1000000)")
            return bool(await self.value("select count(*) = 0 from workerqueue.task_flows"))

        await eventually(none_left, "all flows are folded")

    async def limit_queue(self, queue: str, total: int | None, per_worker: int | None) -> None:
        """Sets a queue's limits as an operator would."""
        await self.rows(
            """
            insert into workerqueue.queues (name, max_in_flight, max_in_flight_per_worker)
            values (%s, %s, %s)
            on conflict (name) do update
               set max_in_flight = excluded.max_in_flight,
                   max_in_flight_per_worker = excluded.max_in_flight_per_worker
            """,
            queue,
            total,
            per_worker,
        )

    async def pause_queue(self, queue: str, paused: bool) -> None:
        """Pauses or resumes a queue."""
        await self.rows(
            "insert into workerqueue.queues (name, paused) values (%s, %s)"
            " on conflict (name) do update set paused = excluded.paused",
            queue,
            paused,
        )
