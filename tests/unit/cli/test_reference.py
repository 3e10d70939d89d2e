"""The documentation names every command and every exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cli.test_help import COMMANDS
from workerqueue_server.cli.exits import Exit

PAGE = (Path(__file__).parents[3] / "docs" / "cli.md").read_text("utf-8")


@pytest.mark.parametrize("path", [path for path, _ in COMMANDS[1:]], ids=" ".join)
def test_every_command_is_named(path: tuple[str, ...]) -> None:
    assert " ".join(path) in PAGE


@pytest.mark.parametrize("code", Exit)
def test_every_exit_code_is_explained(code: Exit) -> None:
    assert f"| {code.value} | " in PAGE
