"""Two minutes of faults by a seed, alone and mixed; scripts/chaos does it for hours."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.harness.supervisor import Plan, run_episode

SEED = 20261127
SECONDS = 90.0

pytestmark = pytest.mark.slow


async def test_whatever_happens_the_promises_hold(tmp_path: Path) -> None:
    report = await run_episode(Plan(SEED, SECONDS), tmp_path)
    assert not report.violations, report.text()
    figures = report.figures
    assert figures.acknowledged > 100
    assert figures.finished > 100
    assert sum(figures.faults.values()) >= 3
