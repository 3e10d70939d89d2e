"""Work goes on soon after a worker, a server or PostgreSQL died.

The bounds are for a loaded machine; docs/reliability.md has what was measured. That leases are
kept, attempts not wasted and no process ends is checked exactly, inside the scenarios.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.harness import recovery

# What a loaded machine may add.
PATIENCE_SECONDS = 20.0

pytestmark = pytest.mark.slow


async def test_a_killed_workers_tasks_run_elsewhere_soon_after_their_lease(tmp_path: Path) -> None:
    measured = await recovery.worker_killed(tmp_path, lease_seconds=3.0)
    assert measured.seconds < 3.0 + 1.0 + PATIENCE_SECONDS


async def test_a_killed_servers_workers_go_to_another_and_keep_their_leases(
    tmp_path: Path,
) -> None:
    measured = await recovery.server_killed(tmp_path)
    assert measured.seconds < 2.0 + PATIENCE_SECONDS


async def test_a_restart_of_postgres_ends_no_process_and_the_rate_comes_back(
    tmp_path: Path,
) -> None:
    measured = await recovery.postgres_restarted(tmp_path)
    assert measured.seconds < 5.0 + PATIENCE_SECONDS


async def test_a_rolling_restart_shows_no_error_to_the_client(tmp_path: Path) -> None:
    measured = await recovery.rolling_restart(tmp_path)
    assert measured.details["errors"] == 0
