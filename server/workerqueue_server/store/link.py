"""One database connection for one duty.

The hot path gives each duty (storing, granting, finishing, ...) a connection of its own, so that a
flood of one kind of work never queues in front of another: acks and heartbeats always have a
connection. A link connects when it is first used and again after a failure.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import AsyncConnection, AsyncCursor

from workerqueue_server.store import binary
from workerqueue_server.store.errors import DatabaseUnavailable, is_worth_repeating, translate
from workerqueue_server.store.statements import statement

Row = tuple[Any, ...]
Parameters = dict[str, object]

# A dead peer is noticed after about 10 s instead of the kernel's quarter of an hour or two hours.
_CONNECTION_DEFAULTS: dict[str, str | int] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
# What every session of this server has set, for duties and for reads. A statement that waits for
# somebody's lock gives up, so that one stuck key cannot stop a duty for good. Without statistics a
# list looks costly enough to be compiled, which takes longer than it. PostgreSQL notices us as we
# notice it: while it waits for somebody who is gone to read an answer, its transaction holds rows
# that all others want, and no time-out of a statement ends that wait (no effect on unix sockets).
SESSION_SETTINGS: LiteralString = (
    "set lock_timeout = '5s'; set jit = off; set tcp_user_timeout = '10s';"
    " set tcp_keepalives_idle = 5; set tcp_keepalives_interval = 2; set tcp_keepalives_count = 3;"
)
_ATTEMPTS = 5


def conninfo(dsn: str, **parameters: str | int) -> str:
    """The DSN with this server's way to notice a dead peer, unless it names another itself."""
    merged = {**_CONNECTION_DEFAULTS, **psycopg.conninfo.conninfo_to_dict(dsn), **parameters}
    return psycopg.conninfo.make_conninfo(**merged)  # type: ignore[arg-type]


async def connect(dsn: str, name: str, settings: LiteralString = "") -> AsyncConnection[Row]:
    """Opens a connection with this server's settings and types. Raises psycopg.Error."""
    connection = await AsyncConnection.connect(
        conninfo(dsn, application_name=f"workerqueue {name}"), autocommit=True
    )
    binary.register(connection)
    await connection.execute(SESSION_SETTINGS + " set statement_timeout = '60s'" + settings)
    return connection


async def _run(
    connection: AsyncConnection[Row], name: str, parameters: Parameters | None
) -> AsyncCursor[Row]:
    cursor = connection.cursor(binary=True)
    return await cursor.execute(statement(name), parameters, prepare=True)


async def _rows(cursor: AsyncCursor[Row]) -> list[Row]:
    return await cursor.fetchall() if cursor.description else []


class Transaction:
    """A transaction of several round trips; made by Link.transaction."""

    def __init__(self, connection: AsyncConnection[Row]) -> None:
        self._connection = connection

    async def fetch(self, name: str, parameters: Parameters | None = None) -> list[Row]:
        """Runs the statement ``sql/<name>.sql``; its rows. Raises StoreError."""
        try:
            return await _rows(await _run(self._connection, name, parameters))
        except psycopg.Error as error:
            if is_worth_repeating(error):
                # Only the caller can repeat all of it.
                raise DatabaseUnavailable(str(error)) from error
            raise translate(error) from error


class Link:
    """A connection that serves one caller at a time and comes back after failures."""

    def __init__(self, dsn: str, name: str, settings: LiteralString = "") -> None:
        """``settings`` are statements to run on each new connection."""
        self._settings = settings
        self._dsn = dsn
        self._name = name
        self._connection: AsyncConnection[Row] | None = None
        self._lock = asyncio.Lock()

    async def fetch(self, name: str, parameters: Parameters | None = None) -> list[Row]:
        """Runs the statement ``sql/<name>.sql`` in a transaction of its own; its rows.

        A statement that lost a deadlock is repeated. Raises StoreError.
        """
        async with self._lock:
            for attempt in range(_ATTEMPTS):
                try:
                    connection = await self._connected()
                    return await _rows(await _run(connection, name, parameters))
                except psycopg.Error as error:
                    if is_worth_repeating(error) and attempt + 1 < _ATTEMPTS:
                        continue
                    failure = translate(error)
                    if isinstance(failure, DatabaseUnavailable):
                        await self._drop()
                    raise failure from error
                except BaseException:
                    # A cancelled statement leaves the connection in an unknown state.
                    await self._drop()
                    raise
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction, for work that must look at rows before it decides.

        Committed at the end of the block, rolled back if it raises. Raises StoreError.
        """
        async with self._lock:
            try:
                connection = await self._connected()
                async with connection.transaction():
                    yield Transaction(connection)
            except psycopg.Error as error:
                await self._drop()
                raise translate(error) from error
            except (DatabaseUnavailable, asyncio.CancelledError):
                await self._drop()
                raise

    async def close(self) -> None:
        """Closes the connection; a later fetch opens a new one."""
        async with self._lock:
            await self._drop()

    async def _connected(self) -> AsyncConnection[Row]:
        connection = self._connection
        if connection is None or connection.closed:
            connection = self._connection = await connect(self._dsn, self._name, self._settings)
        return connection

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
