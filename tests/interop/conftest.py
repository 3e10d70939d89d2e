"""A server per module, as in the integration tests."""

from tests.integration.conftest import (
    api,
    pytest_runtest_makereport,
    queue,
    server,
    server_database,
)

__all__ = ["api", "pytest_runtest_makereport", "queue", "server", "server_database"]
