"""Brings the schema to this release.

Migrations are numbered, forward only, one transaction each. Servers that start together take turns
by an advisory lock; the second finds the work done. A failed migration rolls back and leaves the
schema as it was. Adding is compatible: servers of the previous release keep working on the new
schema. A migration that they could not work with says ``-- breaking: <why>`` in its second line;
older servers then refuse to start (graphile-worker's idea).
"""

from dataclasses import dataclass
from importlib.resources import files
from typing import LiteralString

import psycopg
from psycopg import AsyncConnection

from workerqueue_server.store.errors import SchemaError, StatementFailed, translate
from workerqueue_server.store.link import Row, connect

OLDEST_POSTGRES = 15
_LOCK = 7700

_BOOTSTRAP: LiteralString = """
    create schema if not exists workerqueue;
    create table if not exists workerqueue.migrations (
      version integer primary key,
      name text not null,
      breaking text,
      applied_at timestamptz not null default now()
    )"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of ``migrations/``."""

    version: int
    name: str
    sql: LiteralString
    breaking: str | None


def load_migrations() -> list[Migration]:
    """The migrations of this release, in order."""
    found = []
    for entry in (files(__package__) / "migrations").iterdir():
        if not entry.name.endswith(".sql"):
            continue
        sql = entry.read_text("utf-8")
        second = sql.splitlines()[1]
        breaking = second.removeprefix("-- breaking:").strip() if "breaking:" in second else None
        found.append(Migration(int(entry.name[:4]), entry.name[5:-4], sql, breaking))
    return sorted(found, key=lambda migration: migration.version)


async def applied_versions(dsn: str) -> dict[int, str]:
    """Version and name of every migration the database has; empty if it has none."""
    try:
        async with await connect(dsn, "migrate") as connection:
            return await _applied(connection)
    except psycopg.Error as error:
        raise translate(error) from error


async def migrate(dsn: str) -> list[Migration]:
    """Applies what is missing and returns it. Raises SchemaError or DatabaseUnavailable."""
    try:
        async with await connect(dsn, "migrate") as connection:
            _check_server(connection)
            return await _migrate(connection)
    except psycopg.errors.InsufficientPrivilege as error:
        raise SchemaError(
            f"the database role may not create the schema: {error}. Grant it CREATE on the "
            "database, or run `workerqueue migrate` with a role that has it."
        ) from error
    except psycopg.Error as error:
        raise translate(error) from error


async def require_schema(dsn: str) -> None:
    """Changes nothing. Raises SchemaError if this release cannot work with the schema as it is."""
    known = load_migrations()
    try:
        async with await connect(dsn, "migrate") as connection:
            _check_server(connection)
            applied = await _applied(connection)
            if applied:
                await _refuse_breaking(connection, known)
    except psycopg.Error as error:
        raise translate(error) from error
    missing = [migration for migration in known if migration.version not in applied]
    if missing:
        raise SchemaError(
            f"the database lacks {len(missing)} of {len(known)} migrations, the first is "
            f"{missing[0].version:04} {missing[0].name}. Run `workerqueue migrate`, or start the "
            "server without --no-migrate."
        )


async def _migrate(connection: AsyncConnection[Row]) -> list[Migration]:
    # A migration may wait for the one that another server is running.
    await connection.execute("set lock_timeout = '60s'; set statement_timeout = 0")
    known = load_migrations()
    done: list[Migration] = []
    async with connection.transaction():
        await _lock(connection)
        if not await _is_bootstrapped(connection):
            await connection.execute(_BOOTSTRAP)
    for migration in known:
        async with connection.transaction():
            await _lock(connection)
            applied = await _applied(connection)
            await _refuse_breaking(connection, known)
            if migration.version in applied:
                continue
            try:
                await connection.execute(migration.sql)
            except psycopg.ProgrammingError as error:
                raise StatementFailed(
                    f"migration {migration.version:04} {migration.name} failed and was rolled "
                    f"back: {error}"
                ) from error
            await connection.execute(
                "insert into workerqueue.migrations (version, name, breaking) values (%s, %s, %s)",
                (migration.version, migration.name, migration.breaking),
            )
            done.append(migration)
    return done


async def _lock(connection: AsyncConnection[Row]) -> None:
    await connection.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))


async def _is_bootstrapped(connection: AsyncConnection[Row]) -> bool:
    cursor = await connection.execute("select to_regclass('workerqueue.migrations')")
    row = await cursor.fetchone()
    return row is not None and row[0] is not None


async def _applied(connection: AsyncConnection[Row]) -> dict[int, str]:
    if not await _is_bootstrapped(connection):
        return {}
    cursor = await connection.execute("select version, name from workerqueue.migrations")
    return dict(await cursor.fetchall())


async def _refuse_breaking(connection: AsyncConnection[Row], known: list[Migration]) -> None:
    cursor = await connection.execute(
        "select version, name, breaking from workerqueue.migrations"
        " where version > %s and breaking is not null order by version limit 1",
        (known[-1].version,),
    )
    row = await cursor.fetchone()
    if row is not None:
        raise SchemaError(
            f"the database has migration {row[0]:04} {row[1]}, which this release does not know "
            f"and cannot work with ({row[2]}). Run a release that has it."
        )


def _check_server(connection: AsyncConnection[Row]) -> None:
    major = connection.info.server_version // 10_000
    if major < OLDEST_POSTGRES:
        raise SchemaError(
            f"PostgreSQL {major} is too old: version {OLDEST_POSTGRES} or newer is needed"
        )
