"""A server per module, on a database of its own."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator

import pytest
from psycopg import AsyncConnection

from tests.postgres import Database, PostgresCluster
from tests.servers import ServerProcess, pytest_runtest_makereport
from tests.sql import Inspector
from tests.toolkit import Api, connected

__all__ = ["pytest_runtest_makereport"]

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server_database(postgres: PostgresCluster) -> Iterator[Database]:
    """The database of the module's server."""
    database = postgres.create_migrated_database()
    yield database
    postgres.drop_database(database)


@pytest.fixture(scope="module")
def server(server_database: Database) -> Iterator[ServerProcess]:
    """The module's server. It must have logged no fault when the module is done."""
    with ServerProcess(server_database.dsn) as process:
        yield process


@pytest.fixture
async def api(server: ServerProcess) -> AsyncIterator[Api]:
    """The module's server over a fresh connection."""
    async with connected(server.address) as api:
        yield api


@pytest.fixture
async def sql(server_database: Database) -> AsyncIterator[Inspector]:
    """A look into the module's database."""
    async with await AsyncConnection.connect(server_database.dsn, autocommit=True) as connection:
        yield Inspector(connection)


@pytest.fixture
def queue() -> str:
    """A queue of the test's own, without limits."""
    return f"queue-{next(_numbers)}"
