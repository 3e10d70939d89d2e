"""The committed stubs are those that the contract makes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow  # The first run installs the pinned generator.
def test_the_stubs_are_not_stale() -> None:
    check = subprocess.run(
        [ROOT / "scripts" / "generate", "--check"], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stderr
