"""A server that wants tokens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.postgres import Database
from tests.servers import ServerProcess
from tests.tokens import Tokens


@pytest.fixture(scope="module")
def server(server_database: Database) -> Iterator[ServerProcess]:
    """The module's server. It must have logged no fault when the module is done."""
    with ServerProcess(server_database.dsn, arguments=["--auth", "tokens"]) as process:
        yield process


@pytest.fixture(scope="module")
def tokens(server: ServerProcess, server_database: Database) -> Tokens:
    """The tokens of the module's server."""
    return Tokens(server_database.dsn)
