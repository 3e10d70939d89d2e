"""Every command of docs/operations.md does what the page says."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.integration.admin.toolkit import Admin
from tests.interop.shell_clients import grpcurl
from tests.servers import ServerProcess
from tests.toolkit import Api, eventually
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import queue_admin_pb2, worker_admin_pb2

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "operations.md").read_text()

# Does grpcurl's work with buf, where there is no grpcurl.
STAND_IN = f"""#!/bin/sh
data='{{}}'
while [ $# -gt 2 ]; do
  case $1 in -d) data=$2; shift 2 ;; *) shift ;; esac
done
exec {Path(sys.executable).with_name("buf")} curl --schema {ROOT / "proto"} --protocol grpc \\
  --http2-prior-knowledge -d "$data" "http://$1/$2"
"""


class Command(NamedTuple):
    """A command of the page, and the output shown below it."""

    text: str
    output: str


def commands() -> list[Command]:
    blocks = re.findall(r"```(sh|json)\n(.*?)```", PAGE, re.DOTALL)
    found = []
    for place, (language, text) in enumerate(blocks):
        if language == "sh" and "grpcurl" in text:
            following = blocks[place + 1] if place + 1 < len(blocks) else ("", "")
            found.append(Command(text, following[1] if following[0] == "json" else ""))
    return found


def keys(output: str) -> set[str]:
    """The names of fields, in the contract's spelling."""
    names = re.findall(r'"(\w+)":', output)
    return {re.sub("[A-Z]", lambda m: f"_{m[0].lower()}", name) for name in names}


def words(output: str) -> set[str]:
    """The names of enum values."""
    return set(re.findall(r"\b(?:TASK_STATE|WAIT_REASON)_\w+", output))


def test_the_page_has_all_promised_recipes() -> None:
    assert len(commands()) >= 18


@pytest.mark.parametrize(
    "with_stand_in",
    [
        pytest.param(True, id="buf"),
        # It may have to be built.
        pytest.param(False, id="grpcurl", marks=[pytest.mark.slow, pytest.mark.timeout(850)]),
    ],
)
async def test_every_command_works(
    api: Api, admin: Admin, server: ServerProcess, tmp_path: Path, with_stand_in: bool
) -> None:
    path = os.environ["PATH"]
    if with_stand_in:
        (tmp_path / "grpcurl").write_text(STAND_IN)
        (tmp_path / "grpcurl").chmod(0o755)
        path = f"{tmp_path}:{path}"
    else:
        client = grpcurl()
        if client is None:
            pytest.skip("there is no grpcurl on PATH, and no Go to build it with")
        path = f"{Path(client.command[0]).parent}:{path}"
    # What the other client's commands left.
    await admin.bulk(admin.stub.PurgeQueue(queue_admin_pb2.PurgeQueueRequest(queue="executions")))
    for _ in range(2):
        await api.enqueue(tasks_pb2.StartRun(id="run"))
    run = tasks_pb2.PerformRunExecution(id="42")
    await api.enqueue(run)
    dying = await api.enqueue(tasks_pb2.StartRun(id="dying"), priority=1000)
    (leased,) = await api.take("executions", 1)
    assert leased.task_id == dying.task_id
    await api.fail(leased.lease_token, permanent=True)
    task = await api.enqueue(tasks_pb2.StartRun(id="run"))
    async with api.worker("default", worker_id="worker-1"):
        environment = {
            **os.environ,
            "PATH": path,
            "SERVER": server.address,
            "TASK": task.task_id,
            "WORKER": "worker-1",
        }

        async def listed() -> bool:
            page = await admin.stub.ListWorkers(worker_admin_pb2.ListWorkersRequest())
            # By what it holds, or because it was drained, it may be listed before.
            return any(w.worker_id == "worker-1" and w.sessions for w in page.workers)

        await eventually(listed, "the server has told of its worker's stream")
        for command in commands():
            done = await asyncio.to_thread(
                subprocess.run,
                ["sh", "-c", command.text],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            assert done.returncode == 0, (command.text, done.stderr)
            missing = keys(command.output) - keys(done.stdout)
            assert not missing, (command.text, missing, done.stdout)
            assert words(command.output) <= words(done.stdout), (command.text, done.stdout)
