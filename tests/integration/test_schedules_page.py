"""What docs/schedules.md shows is what happens."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.interop.shell_clients import grpcurl
from tests.postgres import Database
from tests.servers import ServerProcess
from tests.transcripts import blocks, commands, matches

PAGE = (Path(__file__).parents[2] / "docs" / "schedules.md").read_text()
ADDRESS = "127.0.0.1:50551"


@pytest.fixture
def schedule_file(tmp_path: Path) -> Path:
    """The page's file."""
    (block,) = [block for block in blocks(PAGE) if block.name == "schedules.toml"]
    path = tmp_path / block.name
    path.write_text(block.text)
    return path


def test_the_pages_file_is_taken(database: Database, schedule_file: Path) -> None:
    with ServerProcess(database.dsn, arguments=("--schedules", str(schedule_file))) as server:
        assert "2 in all, 2 created, 0 updated, 0 deleted" in server.log()


def test_a_wrong_file_is_refused_in_the_pages_words(
    database: Database, schedule_file: Path
) -> None:
    schedule_file.write_text(schedule_file.read_text().replace("30 2 * * *", "61 2 * * *"))
    with ServerProcess(database.dsn) as server:
        refused = ServerProcess(database.dsn, arguments=("--schedules", str(schedule_file)))
        refused.launch()
        assert refused.wait() == 2
        assert server.is_serving()
    (shown,) = [
        command.output
        for block in blocks(PAGE)
        if block.language == "console"
        for command in commands(block)
        if "wrong.toml" in command.line
    ]
    assert shown.replace("wrong.toml", str(schedule_file)) in refused.log()


def test_the_pages_calls_answer_as_shown(server: ServerProcess) -> None:
    shown = [
        command
        for block in blocks(PAGE)
        if block.language == "console"
        for command in commands(block)
        if command.line.startswith("grpcurl")
    ]
    assert len(shown) == 2
    client = grpcurl()
    if client is None:
        pytest.skip("grpcurl is not at hand")
    folder = Path(client.command[0]).parent
    for command in shown:
        done = subprocess.run(
            ["bash", "-c", command.line.replace(ADDRESS, server.address)],
            env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert matches(done.stdout, command.output), done.stdout
        if '"validate_only": true' in command.line:
            # Times pass for the same in transcripts, but here they are the point.
            assert done.stdout == command.output
