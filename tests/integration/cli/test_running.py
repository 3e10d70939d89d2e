"""`workerqueue dev`, `serve`, `migrate`, `settings`, `completion`, and the connection's flags."""

from __future__ import annotations

import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from tests.integration.cli.commands import Cli
from tests.postgres import Database
from tests.toolkit import within


@pytest.fixture
def alone() -> Cli:
    """Commands for nobody."""
    return Cli("127.0.0.1:1")


async def test_dev_runs_with_a_database_of_its_own_and_says_what_to_try(
    alone: Cli, tmp_path: Path
) -> None:
    process = await alone.start(
        "dev", "--listen", "127.0.0.1:0", cwd=tmp_path, WORKERQUEUE_DSN="dbname=production"
    )
    assert process.stdout is not None
    told: list[str] = []
    while "Ctrl-C stops" not in "".join(told):
        line = await within(process.stdout.readline(), 60)
        assert line, told
        told.append(line.decode())
    text = "".join(told)
    assert "dev leaves the database of WORKERQUEUE_DSN alone" in text
    address = text.partition("export WORKERQUEUE_ADDRESS=")[2].split()[0]
    cli = Cli(address)
    task_id = (await cli("enqueue", "startRun", '{"id": "run_1"}', "-q")).out.strip()
    assert task_id in (await cli("tasks", "list")).out
    process.send_signal(signal.SIGTERM)
    _, err = await within(process.communicate(), 60)
    assert process.returncode == 0
    assert b"fork" not in err
    assert (tmp_path / ".workerqueue").is_dir()


@pytest.mark.parametrize("command", ["serve", "dev", "settings"])
async def test_wrong_settings_stop_the_start_with_2(alone: Cli, command: str) -> None:
    ended = await alone(command, "--data-dir", "x", code=2, WORKERQUEUE_LOG_LEVEL="loud")
    assert "log_level: Input should be 'debug', 'info', 'warning' or 'error'" in ended.err
    assert "(WORKERQUEUE_LOG_LEVEL = loud)" in ended.err


async def test_a_database_that_is_away_stops_the_start_with_3(alone: Cli) -> None:
    dsn = "postgresql://me:hunter2@127.0.0.1:1/queue"
    for command in (("serve", "--listen", "127.0.0.1:0"), ("migrate",), ("migrate", "status")):
        ended = await alone(*command, "--dsn", dsn, code=3)
        assert "hunter2" not in ended.err + ended.out


async def test_a_port_in_use_stops_the_start_with_3(alone: Cli, database: Database) -> None:
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        ended = await alone("serve", "--listen", f"127.0.0.1:{port}", "--dsn", database.dsn, code=3)
        server.stop(None).wait()
    assert f"cannot listen on 127.0.0.1:{port}" in ended.err


async def test_migrate_says_what_it_did(alone: Cli, database: Database) -> None:
    missing = await alone("migrate", "status", "--dsn", database.dsn, code=1)
    assert "0001 tables: missing" in missing.out
    assert "applied 0001 tables" in (await alone("migrate", "--dsn", database.dsn)).out
    assert "nothing to do" in (await alone("migrate", "up", "--dsn", database.dsn)).out
    status = await alone("migrate", "status", WORKERQUEUE_DSN=database.dsn)
    assert "0001 tables: applied" in status.out
    await alone("migrate", code=2)


async def test_settings_tell_where_each_stands_and_no_password(alone: Cli, tmp_path: Path) -> None:
    config = tmp_path / "workerqueue.toml"
    config.write_text('dsn = "postgresql://me:hunter2@db/queue"\nprocesses = 2\n')
    arguments = ("settings", "--config", str(config), "--drain-seconds", "3")
    document = (await alone(*arguments, "-o", "json", WORKERQUEUE_LOG_LEVEL="debug")).json()
    assert document["processes"] == {"value": 2, "source": f"file {config}"}
    assert document["drain_seconds"] == {"value": 3.0, "source": "--drain-seconds"}
    assert document["log_level"] == {"value": "debug", "source": "WORKERQUEUE_LOG_LEVEL"}
    assert "***" in document["dsn"]["value"]
    table = (await alone(*arguments)).out
    assert "hunter2" not in table + str(document)
    assert "user=me password=*** dbname=queue host=db" in table


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_completion_prints_a_script(alone: Cli, shell: str) -> None:
    assert "_WORKERQUEUE_COMPLETE" in (await alone("completion", shell)).out


async def test_the_shell_completes_commands_and_options(alone: Cli) -> None:
    async def completed(words: str, number: int) -> str:
        done = await alone(
            _WORKERQUEUE_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(number)
        )
        return done.out

    assert "plain,tasks" in await completed("workerqueue ta", 1)
    assert "plain,--queue" in await completed("workerqueue enqueue startRun --qu", 3)


async def test_version_and_unknown_commands(alone: Cli) -> None:
    assert (await alone("--version")).out.startswith("workerqueue 0.")
    assert "Did you mean tasks?" in (await alone("task", code=2)).err
    assert "Did you mean list" in (await alone("queues", "lst", code=2)).err


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for queue.example and its key."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=queue.example", "-addext", "subjectAltName=DNS:queue.example"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


async def test_tls_and_token_are_named_as_grpcurl_names_them(
    alone: Cli, certificate: tuple[Path, Path]
) -> None:
    cert, key = certificate
    heard: list[str] = []

    def check(_: health_pb2.HealthCheckRequest, context: grpc.ServicerContext) -> object:
        heard.append(str(dict(context.invocation_metadata()).get("authorization")))
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        handler: Any = grpc.unary_unary_rpc_method_handler(
            check,
            request_deserializer=health_pb2.HealthCheckRequest.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler}),)
        )
        credentials = grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())])
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        where = ("--address", f"127.0.0.1:{port}")
        trusted = ("--cacert", str(cert), "--servername", "queue.example")
        assert "SERVING" in (await alone("health", *where, *trusted, "--token", "t0ken")).out
        assert heard == ["Bearer t0ken"]
        assert "SERVING" in (await alone("health", *where, *trusted, WORKERQUEUE_TOKEN="v4r")).out
        assert heard[-1] == "Bearer v4r"
        untrusted = await alone("health", *where, "--tls", code=3)
        assert "--plaintext" in untrusted.err
        plain = await alone("health", *where, code=3)
        assert "no server answers" in plain.err
        server.stop(None).wait()


async def test_flags_that_contradict_are_wrong_usage(alone: Cli, tmp_path: Path) -> None:
    (tmp_path / "cert.pem").touch()
    assert "--cert and --key" in (await alone("health", "--cert", "c", code=2)).err
    assert "contradicts" in (await alone("health", "--tls", "--plaintext", code=2)).err
    missing = await alone("health", "--cacert", str(tmp_path / "none.pem"), code=2)
    assert "cannot read" in missing.err
