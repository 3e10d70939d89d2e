"""What the chaos tests share with the integration tests."""

from __future__ import annotations

from tests.servers import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]
