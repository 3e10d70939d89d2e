"""Facts about a database for `workerqueue doctor`; what they mean is judged elsewhere."""

import time
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row

from workerqueue_server.store.errors import translate
from workerqueue_server.store.link import connect
from workerqueue_server.store.migrator import applied_versions, load_migrations
from workerqueue_server.store.statements import statement

Record = dict[str, Any]

LONG_TRANSACTION_SECONDS = 300.0
_NOTIFY_SECONDS = 2.0


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        connect_seconds: How long the connection took.
        round_trip_seconds: How long a trivial query takes.
        server: The row of `diagnose_server.sql`.
        clock_skew_seconds: The database's clock minus this machine's.
        holders: The rows of `diagnose_transactions.sql`.
        tables: The rows of `diagnose_tables.sql`; empty without the schema.
        missing_migrations: Versions and names that the database lacks.
        unknown_migrations: Versions and names that this release does not know.
        notified: Whether a NOTIFY came back over the connection meant for LISTEN.
    """

    connect_seconds: float
    round_trip_seconds: float
    server: Record
    clock_skew_seconds: float
    holders: list[Record]
    tables: list[Record]
    missing_migrations: dict[int, str]
    unknown_migrations: dict[int, str]
    notified: bool


async def diagnose(dsn: str, listen_dsn: str | None = None) -> Diagnosis:
    """Looks at the database without changing it. Raises StoreError."""
    try:
        started = time.monotonic()
        async with await connect(dsn, "doctor", "; set statement_timeout = '10s'") as connection:
            connect_seconds = time.monotonic() - started
            connection.row_factory = dict_row  # type: ignore[assignment]
            server, skew, round_trip = await _server(connection)
            holders = await _rows(
                connection, "diagnose_transactions", {"seconds": LONG_TRANSACTION_SECONDS}
            )
            tables = await _rows(connection, "diagnose_tables")
        notified = await _is_notified(listen_dsn or dsn)
    except psycopg.Error as error:
        raise translate(error) from error
    applied = await applied_versions(dsn)
    known = {migration.version: migration.name for migration in load_migrations()}
    return Diagnosis(
        connect_seconds,
        round_trip,
        server,
        skew,
        holders,
        tables,
        missing_migrations={v: name for v, name in known.items() if v not in applied},
        unknown_migrations={v: name for v, name in applied.items() if v not in known},
        notified=notified,
    )


async def _server(connection: AsyncConnection[Any]) -> tuple[Record, float, float]:
    # The second run has its plan and its pages in memory: what is left is the way there and back.
    await _rows(connection, "diagnose_server")
    before, started = time.time(), time.monotonic()
    [server] = await _rows(connection, "diagnose_server")
    round_trip = time.monotonic() - started
    return server, server["clock"] - (before + round_trip / 2), round_trip


async def _rows(
    connection: AsyncConnection[Any], name: str, parameters: Record | None = None
) -> list[Record]:
    cursor = await connection.execute(statement(name), parameters)
    rows: list[Record] = await cursor.fetchall()
    return rows


async def _is_notified(dsn: str) -> bool:
    """Whether notifications arrive: not through a pooler that changes the session in between."""
    channel = sql.Identifier(f"workerqueue_doctor_{uuid4().hex[:12]}")
    async with await connect(dsn, "doctor") as connection:
        await connection.execute(sql.SQL("listen {}").format(channel))
        await connection.execute(sql.SQL("notify {}").format(channel))
        async for _ in connection.notifies(timeout=_NOTIFY_SECONDS, stop_after=1):
            return True
    return False
