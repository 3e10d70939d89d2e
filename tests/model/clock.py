"""The database's clock in the hand of a test.

All times are the database's, and the schema's functions and the server's statements ask for them
by an unqualified name. `pg_catalog` is searched first only where the search path does not name it,
so a server whose connections search another schema before it sees the time that the test sets.
Nothing in the server knows of this.
"""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg

from tests.postgres import Database

_INSTALL: LiteralString = """
    create schema workerqueue_test_clock;
    -- Not a table: what a sequence says is seen by everybody at once, whatever their snapshot.
    create sequence workerqueue_test_clock.microseconds as bigint;
    create function workerqueue_test_clock.clock_timestamp() returns timestamptz
    language sql volatile as $$
      select timestamptz 'epoch' + s.last_value * interval '1 microsecond'
        from workerqueue_test_clock.microseconds s
    $$;
    create function workerqueue_test_clock.now() returns timestamptz
    language sql volatile as 'select workerqueue_test_clock.clock_timestamp()'
"""


class Clock:
    """Stands still but for `advance_to`. Times are microseconds since the epoch."""

    def __init__(self, database: Database) -> None:
        self._connection: psycopg.Connection[Any] = psycopg.connect(database.dsn, autocommit=True)
        self._connection.execute(_INSTALL)
        row = self._connection.execute(
            "select (extract(epoch from date_trunc('second', now())) * 1000000)::bigint"
        ).fetchone()
        assert row is not None
        self.now: int = row[0]
        self.dsn = f"{database.dsn}&options=-csearch_path%3Dworkerqueue_test_clock%2Cpg_catalog"
        self.advance_to(self.now)

    def advance_to(self, moment: int) -> None:
        """From now on it is this late."""
        assert moment >= self.now
        self.now = moment
        self._connection.execute(
            "select setval('workerqueue_test_clock.microseconds', %s)", [moment]
        )

    def make_room(self) -> None:
        """Makes the days' partitions that the server's hourly duty would make by this clock."""
        self._connection.execute("set search_path = workerqueue_test_clock, pg_catalog")
        self._connection.execute("select workerqueue.create_partitions(32)")

    def close(self) -> None:
        """Leaves the database."""
        self._connection.close()
