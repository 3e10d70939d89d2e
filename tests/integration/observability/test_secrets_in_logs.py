"""Neither a bearer token nor a database password reaches a log, whatever goes wrong with it."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import psycopg
import pytest
from psycopg import sql

from tests.postgres import OLDEST_SUPPORTED_MAJOR, Database, PostgresCluster, available_majors
from tests.servers import ServerProcess
from tests.tokens import Tokens, connected_as
from tests.toolkit import connected, eventually, refused, request

_PASSWORD = "password-canary"
_LOUD = ("--log-level", "debug")


@pytest.fixture(scope="module", params=["json", "console"])
def loud(request: pytest.FixtureRequest) -> list[str]:
    """Arguments of a server that logs all it can."""
    return [*_LOUD, "--log-format", request.param]


@pytest.fixture(scope="module")
def strict_cluster() -> Iterator[PostgresCluster]:
    """A cluster that asks one role for its password."""
    # Beside pytest's own folders, which the account of PostgreSQL cannot read.
    folder = Path(tempfile.mkdtemp(prefix="workerqueue-hba-"))
    rules = folder / "pg_hba.conf"
    rules.write_text(
        "host all server 127.0.0.1/32 scram-sha-256\n"
        "local all all trust\nhost all all 127.0.0.1/32 trust\n"
    )
    folder.chmod(0o755)
    rules.chmod(0o644)
    major = max(major for major in available_majors() if major >= OLDEST_SUPPORTED_MAJOR)
    cluster = PostgresCluster(major, {"hba_file": str(rules)})
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.destroy()
        shutil.rmtree(folder)


async def test_tokens_are_never_told(postgres: PostgresCluster, loud: list[str]) -> None:
    database = postgres.create_database()
    with ServerProcess(database.dsn, arguments=[*loud, "--auth", "tokens"]) as server:
        tokens = Tokens(database.dsn)
        good = tokens.create("producer", "worker", name="good")
        revoked = tokens.create("producer", "worker", name="revoked")
        expired = tokens.create("producer", name="expired", seconds=0.001)
        lacking = tokens.create("worker", name="lacking")
        forged = good[:-8] + "canary00"
        async with connected_as(server.address, good) as api:
            await api.enqueue(queue="q")
        async with connected_as(server.address, revoked) as api:
            async with api.worker("q", worker_id="w", window=1) as worker:
                await worker.tasks(1)
                tokens.revoke(revoked)
                ended = await worker.end()
            assert ended is not None
            assert ended.reason == "TOKEN_REVOKED"
        for text in (revoked, expired, forged, lacking, "canary", f"wq_canary_{'c' * 43}"):
            async with connected_as(server.address, text) as api:
                problem = await refused(api.send(request(queue="q")))
                assert problem.code in (
                    grpc.StatusCode.UNAUTHENTICATED,
                    grpc.StatusCode.PERMISSION_DENIED,
                )
        log = server.log()
        assert "good" in log
        assert "canary" not in log
        for text in (good, revoked, expired, lacking):
            assert text.split("_", 2)[2] not in log
    postgres.drop_database(database)


def _set_password(database: Database, password: str) -> None:
    """Makes it the password of the server's role, and cuts whoever logged in with another."""
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        if not connection.execute("select 1 from pg_roles where rolname = 'server'").fetchone():
            connection.execute("create role server superuser login")
        connection.execute(sql.SQL("alter role server password {}").format(sql.Literal(password)))
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'server'"
        )


async def test_a_failing_login_does_not_tell_the_password(
    strict_cluster: PostgresCluster, loud: list[str]
) -> None:
    database = strict_cluster.create_database()
    _set_password(database, _PASSWORD)
    dsn = f"postgresql://server:{_PASSWORD}@127.0.0.1:{strict_cluster.port}/{database.name}"
    with ServerProcess(dsn, arguments=loud) as server:
        async with connected(server.address) as api:
            await api.enqueue(queue="q")
            _set_password(database, "another")

            async def refuses() -> bool:
                return not await asyncio.to_thread(server.is_serving)

            await eventually(refuses, "the server notices")
            problem = await refused(api.send(request(queue="q")))
            assert problem.reason == "DATABASE_UNAVAILABLE"
            _set_password(database, _PASSWORD)
            await eventually(lambda: asyncio.to_thread(server.is_serving), "the server recovers")
            await api.enqueue(queue="q")
        assert "password authentication failed" in server.log()
        assert "canary" not in server.log()


def test_a_start_that_cannot_log_in_does_not_tell_the_password(
    strict_cluster: PostgresCluster, loud: list[str]
) -> None:
    database = strict_cluster.create_database()
    _set_password(database, "another")
    dsn = f"postgresql://server:{_PASSWORD}@127.0.0.1:{strict_cluster.port}/{database.name}"
    server = ServerProcess(dsn, arguments=loud)
    server.launch()
    try:
        assert server.wait() == 3
    except subprocess.TimeoutExpired:
        server.kill()
        raise
    assert "password authentication failed" in server.log()
    assert "canary" not in server.log()
