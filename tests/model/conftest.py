"""A server on a database whose clock the test sets."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from tests.model import attentive_server as attentive_server_file
from tests.model.clock import Clock
from tests.model.system import System
from tests.postgres import Database, PostgresCluster
from tests.servers import ServerProcess, pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]


@pytest.fixture(scope="module")
def clocked_database(postgres: PostgresCluster) -> Iterator[Database]:
    database = postgres.create_database()
    yield database
    postgres.drop_database(database)


@pytest.fixture(scope="module")
def clock(clocked_database: Database) -> Iterator[Clock]:
    clock = Clock(clocked_database)
    yield clock
    clock.close()


@pytest.fixture(scope="module")
def attentive_server(clock: Clock) -> Iterator[ServerProcess]:
    with ServerProcess(clock.dsn, program=[attentive_server_file.__file__]) as process:
        yield process


@pytest.fixture(scope="module")
def system(attentive_server: ServerProcess) -> Iterator[System]:
    with grpc.insecure_channel(attentive_server.address) as channel:
        yield System(channel)
