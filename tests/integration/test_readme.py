"""What README.md shows is what happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from tests.interop.shell_clients import grpcurl
from tests.servers import ServerProcess
from tests.toolkit import DEADLINE_SECONDS
from tests.transcripts import Block, blocks, commands, matches, renamed
from workerqueue.v1.task_admin_pb2 import WatchTaskRequest
from workerqueue.v1.task_pb2 import TASK_STATE_SUCCEEDED, Task
from workerqueue.v1.worker_queue_admin_pb2_grpc import WorkerQueueAdminStub

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DEFAULT_ADDRESS = "127.0.0.1:50551"


def _transcripts(word: str) -> list[Block]:
    found = [b for b in blocks(README) if b.language == "console" and word in b.text]
    assert found
    return found


def _check(block: Block, environment: dict[str, str], address: str) -> None:
    """Runs the commands of a transcript, each with the values that the last ones printed."""
    values = {DEFAULT_ADDRESS: address}
    for command in commands(block):
        line = command.line
        for shown, now in values.items():
            line = line.replace(shown, now)
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=180,
            check=False,
        )
        assert matches(done.stdout, command.output), (
            f"{line}\nprinted:\n{done.stdout}\nbut README.md shows:\n{command.output}"
        )
        values |= renamed(command.output, done.stdout)


@pytest.mark.slow
def test_the_quickstart_prints_what_is_shown() -> None:
    (block,) = _transcripts("./scripts/quickstart")
    assert [command.line for command in commands(block)] == ["./scripts/quickstart"]
    _check(block, {"COLUMNS": "130"}, DEFAULT_ADDRESS)


@pytest.mark.slow
@pytest.mark.timeout(850)  # grpcurl may have to be built.
def test_the_grpcurl_transcript_is_real(server: ServerProcess) -> None:
    client = grpcurl()
    if client is None:
        pytest.skip("there is no grpcurl on PATH, and no Go to build it with")
    path = f"{Path(client.command[0]).parent}{os.pathsep}{os.environ['PATH']}"
    for block in _transcripts("grpcurl"):
        _check(block, {"PATH": path}, server.address)


def test_producer_and_worker_do_what_they_say(server: ServerProcess, tmp_path: Path) -> None:
    files = {block.name: block.text for block in blocks(README) if block.language == "python"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    environment = {**os.environ, "WORKERQUEUE_ADDRESS": server.address, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "worker.py"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        try:
            produced = subprocess.run(
                [sys.executable, "producer.py"],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                check=True,
                timeout=120,
            )
            assert _end_of(server, produced.stdout.strip()).state == TASK_STATE_SUCCEEDED
            worker.send_signal(signal.SIGTERM)
            printed, _ = worker.communicate(timeout=120)
        finally:
            worker.kill()

    assert worker.returncode == 0
    assert printed == "attempt 1: Welcome to ada@example.com\n"


def _end_of(server: ServerProcess, task_id: str) -> Task:
    """The task when it has ended."""
    task = Task()
    with grpc.insecure_channel(server.address) as channel:
        request = WatchTaskRequest(task_id=task_id)
        for answer in WorkerQueueAdminStub(channel).WatchTask(request, timeout=DEADLINE_SECONDS):
            task = answer.task
    return task
