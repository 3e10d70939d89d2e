"""Reading tasks for people and producers, on a pool of its own beside the hot path."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from workerqueue_server.store import binary
from workerqueue_server.store.errors import DatabaseUnavailable, is_worth_repeating, translate
from workerqueue_server.store.link import SESSION_SETTINGS, conninfo
from workerqueue_server.store.statements import statement

Record = dict[str, Any]

FINAL_STATES = frozenset({"succeeded", "dead", "cancelled", "expired"})

_POOL_SIZE = 4
_WAIT_SECONDS = 5.0
# Each is a call that waits; beyond it calls are answered UNAVAILABLE at once.
_MAX_WAITING = 1_000
_ATTEMPTS = 5


class TaskSnapshot(NamedTuple):
    """A task and its recorded attempts, oldest first."""

    task: Record
    attempts: list[Record]

    @property
    def is_final(self) -> bool:
        """Whether the task is in a terminal state."""
        return self.task["state"] in FINAL_STATES


async def configure(connection: AsyncConnection[Any]) -> None:
    """Gives a new connection of the pool this server's settings and types."""
    binary.register(connection)
    await connection.set_autocommit(True)
    await connection.execute(SESSION_SETTINGS + " set statement_timeout = '30s'")


class ReadStore:
    """Queries that are not part of the hot path. Every method raises StoreError."""

    def __init__(self, dsn: str) -> None:
        self._pool = AsyncConnectionPool(
            conninfo(dsn, application_name="workerqueue read"),
            min_size=0,
            max_size=_POOL_SIZE,
            open=False,
            timeout=_WAIT_SECONDS,
            max_waiting=_MAX_WAITING,
            configure=configure,
            check=AsyncConnectionPool.check_connection,
            kwargs={"row_factory": dict_row},
            name="read",
        )

    async def open(self) -> None:
        """Starts the pool; connections are made when needed."""
        await self._pool.open()

    async def close(self) -> None:
        """Closes the pool."""
        await self._pool.close()

    async def fetch(
        self, name: str, parameters: Mapping[str, object] | None = None
    ) -> list[Record]:
        """The rows of the statement ``sql/<name>.sql`` as dictionaries.

        A statement that lost a deadlock is repeated.
        """
        for attempt in range(_ATTEMPTS):
            try:
                async with self._pool.connection() as connection:
                    cursor = connection.cursor(binary=True)
                    await cursor.execute(statement(name), parameters)
                    rows: list[Record] = await cursor.fetchall() if cursor.description else []
                    return rows
            except PoolTimeout as error:
                raise DatabaseUnavailable(str(error)) from error
            except psycopg.Error as error:
                if is_worth_repeating(error) and attempt + 1 < _ATTEMPTS:
                    continue
                raise translate(error) from error
        raise AssertionError("unreachable")

    async def tasks(self, task_ids: Sequence[bytes]) -> dict[bytes, Record]:
        """The tasks of these ids that exist, live or finished."""
        rows = await self.fetch("get_tasks", {"ids": binary.UuidArray(task_ids)})
        return {row["id"].bytes: row for row in rows}

    async def task_rows(self, task_ids: Sequence[bytes], *, full: bool) -> dict[bytes, Record]:
        """The tasks of these ids that exist; not full: without payloads, results, checkpoints."""
        name = "get_tasks" if full else "list_tasks"
        rows = await self.fetch(name, {"ids": binary.UuidArray(task_ids)})
        return {row["id"].bytes: row for row in rows}

    async def waits(self, task_ids: Sequence[bytes]) -> dict[bytes, float]:
        """How many seconds passed from when each task could have run to its last lease."""
        rows = await self.fetch("task_waits", {"ids": binary.UuidArray(task_ids)})
        return {row["id"].bytes: row["seconds"] for row in rows}

    def pool_figures(self) -> Mapping[str, int]:
        """The pool's own figures; see psycopg_pool's `get_stats`."""
        return self._pool.get_stats()

    async def snapshots(self, task_ids: Sequence[bytes]) -> dict[bytes, TaskSnapshot]:
        """The tasks of these ids that exist, with their attempts."""
        tasks = await self.tasks(task_ids)
        found: dict[bytes, TaskSnapshot] = {
            task_id: TaskSnapshot(record, []) for task_id, record in tasks.items()
        }
        # Of those without a charged attempt too: what a job key replaced had some before.
        if tasks:
            for row in await self.fetch("get_attempts", {"ids": binary.UuidArray(list(tasks))}):
                found[row["task_id"].bytes].attempts.append(row)
        return found

    async def digests(self, task_ids: Sequence[bytes]) -> dict[bytes, str]:
        """For each task that exists, a text that changes when the task does."""
        rows = await self.fetch("task_digests", {"ids": binary.UuidArray(task_ids)})
        return {row["id"].bytes: row["digest"] for row in rows}
