"""The database fixtures do what other tests rely on."""

from __future__ import annotations

import psycopg
import pytest

from tests.postgres import Database, PostgresCluster


@pytest.mark.all_postgres
def test_the_database_is_of_the_asked_major_and_empty(
    postgres_major: int, database: Database
) -> None:
    with psycopg.connect(database.dsn) as connection:
        assert connection.info.server_version // 10000 == postgres_major
        tables = connection.execute("SELECT FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert tables == []


def test_socket_and_tcp_reach_the_same_database(database: Database) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE mark ()")
    with psycopg.connect(database.tcp_dsn) as connection:
        assert connection.info.host == "127.0.0.1"
        connection.execute("SELECT FROM mark")


def test_a_template_is_prepared_once_and_copied(postgres: PostgresCluster) -> None:
    prepared: list[str] = []

    def prepare(dsn: str) -> None:
        prepared.append(dsn)
        with psycopg.connect(dsn) as connection:
            connection.execute("CREATE TABLE mark ()")

    copies = [postgres.create_database(postgres.template("marked", prepare)) for _ in range(2)]
    try:
        assert len(prepared) == 1
        for copy in copies:
            with psycopg.connect(copy.dsn) as connection:
                connection.execute("SELECT FROM mark")
    finally:
        for copy in copies:
            postgres.drop_database(copy)


@pytest.mark.all_postgres
def test_a_committed_row_outlives_a_kill_and_the_address_stays(
    own_postgres: PostgresCluster,
) -> None:
    database = own_postgres.create_database()
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE mark ()")
        own_postgres.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT FROM mark")
    assert not own_postgres.running
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(database.tcp_dsn)

    own_postgres.start()
    with psycopg.connect(database.tcp_dsn) as connection:
        connection.execute("SELECT FROM mark")


def test_a_fast_stop_cuts_clients_and_a_second_one_does_nothing(
    own_postgres: PostgresCluster,
) -> None:
    with psycopg.connect(own_postgres.dsn("postgres"), autocommit=True) as connection:
        own_postgres.stop("fast")
        own_postgres.stop("fast")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert not own_postgres.running


def test_a_frozen_cluster_is_silent_until_it_thaws(own_postgres: PostgresCluster) -> None:
    own_postgres.freeze()
    with pytest.raises(psycopg.errors.ConnectionTimeout):
        psycopg.connect(own_postgres.tcp_dsn("postgres"), connect_timeout=2)
    own_postgres.thaw()
    psycopg.connect(own_postgres.tcp_dsn("postgres"), connect_timeout=10).close()
