"""What the chaos tests share with each other and with the integration tests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from psycopg import AsyncConnection

from tests.chaos.harness.faulty import VARIABLE
from tests.postgres import Database
from tests.servers import ServerProcess, pytest_runtest_makereport, servers
from tests.sql import Inspector
from tests.toolkit import Api, connected

__all__ = ["pytest_runtest_makereport"]


REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def point(tmp_path: Path) -> Path:
    """The file that tells the fault points of `faulty` what to do."""
    return tmp_path / "point"


@pytest.fixture
def faulty(database: Database, point: Path) -> Iterator[ServerProcess]:
    """A server with fault points on the test's own database."""
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    with ServerProcess(
        database.dsn,
        program=("-m", "tests.chaos.harness.faulty"),
        environment={VARIABLE: str(point), "PYTHONPATH": path},
    ) as server:
        yield server


@pytest.fixture
def group(database: Database) -> Iterator[list[ServerProcess]]:
    """Two servers on the test's own database."""
    with servers(database.dsn, 2) as group:
        yield group


@pytest.fixture
async def api(group: list[ServerProcess]) -> AsyncIterator[Api]:
    """The first of them."""
    async with connected(group[0].address) as api:
        yield api


@pytest.fixture
async def sql(database: Database) -> AsyncIterator[Inspector]:
    """A look into their database."""
    async with await AsyncConnection.connect(database.dsn, autocommit=True) as connection:
        yield Inspector(connection)
