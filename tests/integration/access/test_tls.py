"""TLS and mutual TLS with real certificates; who is kept out, and what a start is refused for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
import trustme

from tests.integration.cli.commands import Cli, clean_environment
from tests.postgres import Database
from tests.servers import ServerProcess
from tests.tokens import Tokens, connected_as
from tests.toolkit import DEADLINE_SECONDS, eventually, refused, request
from workerqueue import AsyncClient, Client, Tls, UnavailableError
from workerqueue.tasks.v1.tasks_pb2 import RunFinished

_LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass
class Files:
    """Certificates in a folder."""

    folder: Path
    authority: trustme.CA
    clients: trustme.CA

    def issue(self, name: str, by: trustme.CA, expires: datetime | None = None) -> None:
        """Writes NAME.pem and NAME.key of a certificate for this machine."""
        certificate = by.issue_cert("localhost", "127.0.0.1", not_after=expires)
        key = self.folder / f"{name}.key"
        certificate.private_key_pem.write_to_path(key)
        chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
        # Whole at once, as whoever renews certificates does it.
        partial = self.folder / f"{name}.partial"
        partial.write_bytes(chain)
        partial.replace(self.folder / f"{name}.pem")

    def __getitem__(self, name: str | Path) -> Path:
        return self.folder / name

    def credentials(self, client: str | None, ca: str = "ca.pem") -> grpc.ChannelCredentials:
        """What a client presents."""
        if client is None:
            return grpc.ssl_channel_credentials(self[ca].read_bytes())
        return grpc.ssl_channel_credentials(
            self[ca].read_bytes(),
            self[f"{client}.key"].read_bytes(),
            self[f"{client}.pem"].read_bytes(),
        )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """An authority for servers and one for clients, and what they have signed."""
    made = Files(tmp_path_factory.mktemp("tls"), trustme.CA(), trustme.CA())
    made.authority.cert_pem.write_to_path(made["ca.pem"])
    made.clients.cert_pem.write_to_path(made["clients.pem"])
    made.issue("server", made.authority)
    made.issue("client", made.clients)
    made.issue("expired", made.clients, _LONG_AGO + timedelta(days=1))
    made.issue("stranger", made.authority)
    return made


class _TlsServer(ServerProcess):
    """Is asked for its health over TLS."""

    def __init__(self, files: Files, dsn: str, *arguments: str) -> None:
        self._files = files
        super().__init__(
            dsn,
            arguments=[
                *("--tls-cert", str(files["server.pem"]), "--tls-key", str(files["server.key"])),
                *("--tls-client-ca", str(files["clients.pem"]), "--auth", "tokens"),
                *arguments,
            ],
        )

    def is_serving(self) -> bool:
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "workerqueue_server.cli.main", "health"),
                *("--address", self.address, "--cacert", str(self._files["ca.pem"])),
                *("--cert", str(self._files["client.pem"])),
                *("--key", str(self._files["client.key"])),
            ],
            env=clean_environment(),
            capture_output=True,
            check=False,
        )
        return ended.returncode == 0


@pytest.fixture(scope="module")
def server(server_database: Database, files: Files) -> Iterator[ServerProcess]:
    """A server that wants certificates of its clients, and tokens."""
    with _TlsServer(files, server_database.dsn) as process:
        yield process


@pytest.fixture(scope="module")
def token(tokens: Tokens) -> str:
    """A token that may do all."""
    return tokens.create("producer", "worker", "operator")


async def test_a_client_with_a_certificate_and_a_token_works(
    server: ServerProcess, files: Files, token: str, queue: str
) -> None:
    async with connected_as(server.address, token, files.credentials("client")) as api:
        task = await api.enqueue(queue=queue)
        async with api.worker(queue) as worker:
            leased = await worker.task()
            assert leased.task_id == task.task_id
            await worker.acked(leased.lease_token)


@pytest.mark.parametrize(
    ("client", "ca"),
    [
        pytest.param("client", "clients.pem", id="the server's authority is not trusted"),
        pytest.param(None, "ca.pem", id="no client certificate"),
        pytest.param("expired", "ca.pem", id="an expired client certificate"),
        pytest.param("stranger", "ca.pem", id="a client certificate of another authority"),
    ],
)
async def test_whoever_has_not_the_right_certificates_is_kept_out(
    server: ServerProcess, files: Files, token: str, client: str | None, ca: str
) -> None:
    async with connected_as(server.address, token, files.credentials(client, ca)) as api:
        answer = await refused(api.stub.Enqueue(request(), timeout=DEADLINE_SECONDS))
        assert answer.code is grpc.StatusCode.UNAVAILABLE
        assert not answer.reason


async def test_plain_text_is_not_understood(server: ServerProcess, token: str) -> None:
    async with connected_as(server.address, token) as api:
        answer = await refused(api.stub.Enqueue(request(), timeout=DEADLINE_SECONDS))
        assert answer.code is grpc.StatusCode.UNAVAILABLE


async def test_a_certificate_alone_is_no_token(server: ServerProcess, files: Files) -> None:
    async with connected_as(server.address, None, files.credentials("client")) as api:
        answer = await refused(api.send(request()))
        assert answer.reason == "TOKEN_MISSING"


async def test_the_python_clients_and_the_command_line_speak_tls(
    server: ServerProcess, files: Files, token: str, queue: str, tmp_path: Path
) -> None:
    tls = Tls(
        cacert=files["ca.pem"],
        cert=files["client.pem"],
        key=files["client.key"],
        servername="localhost",
    )
    token_file = tmp_path / "token"
    token_file.write_text(f"{token}\n")
    with Client(server.address, tls=tls, token=token_file) as client:
        assert client.enqueue(RunFinished(id="sync"), queue=queue).task_id
    async with AsyncClient(server.address, tls=tls, token=lambda: token) as aclient:
        assert (await aclient.enqueue(RunFinished(id="async"), queue=queue)).task_id
    with (
        Client(server.address, tls=Tls(cacert=files["clients.pem"]), token=token) as wrong,
        pytest.raises(UnavailableError),
    ):
        wrong.enqueue(RunFinished(id="no"), queue=queue)
    cli = Cli(
        server.address,
        WORKERQUEUE_CACERT=str(files["ca.pem"]),
        WORKERQUEUE_CERT=str(files["client.pem"]),
        WORKERQUEUE_KEY=str(files["client.key"]),
        WORKERQUEUE_TOKEN_FILE=str(token_file),
    )
    assert queue in (await cli("queues", "list")).out
    plain = await Cli(server.address)("queues", "list", code=3)
    assert "hint:" in plain.err
    missing = await cli("queues", "list", "--token", "wrong", code=4)
    assert "TOKEN_INVALID" in missing.err


async def test_new_certificates_are_taken_without_a_restart(
    server: ServerProcess, files: Files, token: str
) -> None:
    async def works(ca: str) -> bool:
        async with connected_as(server.address, token, files.credentials("client", ca)) as api:
            try:
                await api.stub.Enqueue(request(), timeout=DEADLINE_SECONDS)
            except grpc.aio.AioRpcError:
                return False
        return True

    new = trustme.CA()
    new.cert_pem.write_to_path(files["new-ca.pem"])
    old_key, old_chain = files["server.key"].read_bytes(), files["server.pem"].read_bytes()
    # A chain without its key: the previous pair stays.
    files.issue("next", new)
    shutil.copy(files["next.pem"], files["server.pem"])
    assert await works("ca.pem")
    assert "the new ones are of no use" in server.log()
    server.tolerated = "the new ones are of no use"
    shutil.copy(files["next.key"], files["server.key"])
    await eventually(lambda: works("new-ca.pem"), "the new certificate")
    assert not await works("ca.pem")
    files["server.key"].write_bytes(old_key)
    files["server.pem"].write_bytes(old_chain)
    await eventually(lambda: works("ca.pem"), "the old certificate again")


async def test_a_start_with_files_of_no_use_is_refused(
    server_database: Database, files: Files, tmp_path: Path
) -> None:
    cli = Cli("127.0.0.1:0", WORKERQUEUE_DSN=server_database.dsn)
    (tmp_path / "text").write_text("no certificate")
    for cert, key, client_ca in (
        ("server.pem", "client.key", "clients.pem"),
        (tmp_path / "text", "server.key", "clients.pem"),
        ("server.pem", "server.key", tmp_path / "text"),
    ):
        ended = await cli(
            *("serve", "--tls-cert", str(files[cert]), "--tls-key", str(files[key])),
            *("--tls-client-ca", str(files[client_ca])),
            code=2,
        )
        assert "cannot start" in ended.err
        assert str(files[cert]) in ended.err or str(client_ca) in ended.err
