"""Workers in other languages against a server that wants TLS and tokens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import trustme

from tests.interop.builds import LANGUAGES, Language
from tests.postgres import Database
from tests.servers import ServerProcess
from tests.tokens import Tokens, connected_as
from tests.toolkit import request
from workerqueue.tasks.v1 import tasks_pb2

# A build from nothing.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(850)]

_SECONDS = 60
# To build tonic with TLS would cost every run of the tests more than the test is worth.
_WITH_ACCESS = [language for language in LANGUAGES if language.name != "rust"]


class _Guarded(ServerProcess):
    """Asked for its health over TLS."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.cacert = folder / "ca.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.cacert)
        issued = authority.issue_cert("127.0.0.1", "localhost")
        issued.private_key_pem.write_to_path(folder / "server.key")
        issued.cert_chain_pems[0].write_to_path(folder / "server.pem")
        files = ("--tls-cert", str(folder / "server.pem"), "--tls-key", str(folder / "server.key"))
        super().__init__(dsn, arguments=[*files, "--auth", "tokens"])

    def is_serving(self) -> bool:
        probe = (sys.executable, "-m", "workerqueue_server.cli.main", "health")
        command = (*probe, "--address", self.address, "--cacert", str(self.cacert))
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def guarded(database: Database, tmp_path: Path) -> Iterator[_Guarded]:
    server = _Guarded(database.dsn, tmp_path)
    with server:
        yield server


def _start(
    language: Language, server: _Guarded, token: str | None, queue: str
) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WORKERQUEUE_")}
    environment |= {
        "WORKERQUEUE_ADDRESS": server.address,
        "WORKERQUEUE_CACERT": str(server.cacert),
        **({"WORKERQUEUE_TOKEN": token} if token is not None else {}),
        "CONFORMANCE_QUEUE": queue,
        "CONFORMANCE_WORKER_ID": "w",
        "CONFORMANCE_WINDOW": "1",
    }
    return subprocess.Popen(
        language.worker.format(folder=language.folder).split(),
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("language", _WITH_ACCESS, ids=lambda language: language.name)
async def test_a_worker_passes_its_token_over_tls(
    language: Language, guarded: _Guarded, database: Database
) -> None:
    language.build()
    tokens = Tokens(database.dsn)
    credentials = grpc.ssl_channel_credentials(guarded.cacert.read_bytes())
    email = tasks_pb2.ScheduleEmail(to="a@example.com", subject="s", html="h", text="t")
    producer = tokens.create("producer")
    async with connected_as(guarded.address, producer, credentials) as api:
        (task_id,) = await api.ids([request(email, queue="q")])
    with _start(language, guarded, tokens.create("worker", queues=["q"]), "q") as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            # The end of the output ends the loop: a worker that dies is no endless wait.
            told = []
            for line in worker.stdout:
                told.append(json.loads(line))
                if told[-1]["event"] == "finished":
                    worker.stdin.close()
            assert worker.wait(_SECONDS) == 0
        finally:
            worker.kill()
    assert [line["event"] for line in told] == ["ready", "started", "finished"]
    assert told[-1]["task_id"] == task_id
