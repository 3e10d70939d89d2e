"""Two minutes of faults by a seed, alone and mixed; scripts/chaos does it for hours."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.harness import faults, network
from tests.chaos.harness.processes import FakeClock, SmallDisk
from tests.chaos.harness.report import EpisodeReport
from tests.chaos.harness.stage import Scale
from tests.chaos.harness.supervisor import FAULTS, Plan, run_episode
from tests.networks import Namespace

SEED = 20261127

# The faults take so long as they are told; starting and draining takes what the machine takes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(800)]


def checked(report: EpisodeReport, *, faults_at_least: int) -> None:
    assert not report.violations, report.text()
    figures = report.figures
    assert figures.acknowledged > 100
    assert figures.finished > 100
    assert sum(figures.faults.values()) >= faults_at_least


async def test_whatever_happens_the_promises_hold(tmp_path: Path) -> None:
    scale = Scale(namespaces=Namespace.unavailable() is None)
    plan = Plan(SEED, 60, scale, faults=tuple(FAULTS), opening=faults.KillServerAtPoint)
    checked(await run_episode(plan, tmp_path), faults_at_least=3)


async def test_a_promoted_standby_has_all_that_was_acknowledged(tmp_path: Path) -> None:
    plan = Plan(
        SEED + 1,
        15,
        Scale(standby=True),
        (faults.KillServerAtPoint, network.Cut, faults.TerminateBackends),
        opening=faults.FailOver,
    )
    checked(await run_episode(plan, tmp_path), faults_at_least=1)


async def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    if reason := SmallDisk.unavailable():
        pytest.skip(reason)
    plan = Plan(
        SEED + 2,
        15,
        Scale(small_disk=True),
        (faults.KillPostgres, faults.FreezeServerAtPoint),
        opening=faults.FillDisk,
    )
    checked(await run_episode(plan, tmp_path), faults_at_least=1)


async def test_clocks_that_jump_break_no_promise(tmp_path: Path) -> None:
    if FakeClock.preloaded() is None:
        pytest.skip("libfaketime is not installed (apt-get install libfaketime)")
    plan = Plan(
        SEED + 3,
        25,
        Scale(fake_clocks=True),
        (faults.JumpServerClock, faults.JumpDatabaseClock, faults.KillWorker),
        opening=faults.JumpDatabaseClock,
    )
    checked(await run_episode(plan, tmp_path), faults_at_least=1)
