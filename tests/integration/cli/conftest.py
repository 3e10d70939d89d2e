"""The command line against the module's server."""

from __future__ import annotations

import pytest

from tests.integration.cli.commands import Cli
from tests.servers import ServerProcess


@pytest.fixture
def cli(server: ServerProcess) -> Cli:
    """Commands for the module's server."""
    return Cli(server.address)
