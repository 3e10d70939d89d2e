"""Shows the server's log with a failure."""

from tests.servers import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]
