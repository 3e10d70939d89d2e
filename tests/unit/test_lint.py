"""Style, types, the direction of imports, the contract and its stubs are in order."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_check_passes() -> None:
    lint = subprocess.run(
        [ROOT / "scripts" / "lint"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if lint.returncode:
        pytest.fail(lint.stdout, pytrace=False)
