"""A server that serves metrics, after a little of everything has happened to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.postgres import Database, PostgresCluster
from tests.scraping import endpoints
from tests.servers import ServerProcess
from tests.toolkit import Api, connected


@pytest.fixture(scope="module")
def measured_database(postgres: PostgresCluster) -> Iterator[Database]:
    """The database of the module's server."""
    database = postgres.create_migrated_database()
    yield database
    postgres.drop_database(database)


@pytest.fixture(scope="module")
def measured(measured_database: Database) -> Iterator[ServerProcess]:
    """The module's server, with an endpoint for Prometheus."""
    arguments = ["--prometheus", "127.0.0.1:0"]
    with ServerProcess(measured_database.dsn, arguments=arguments) as process:
        yield process


@pytest.fixture
def url(measured: ServerProcess) -> str:
    """The server's endpoint."""
    (found,) = endpoints(measured)
    return found


@pytest.fixture
async def api(measured: ServerProcess) -> AsyncIterator[Api]:
    """The module's server over a fresh connection."""
    async with connected(measured.address) as api:
        yield api
