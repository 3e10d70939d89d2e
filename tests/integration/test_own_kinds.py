"""The worked example of own task kinds does what its page shows; contradictions stop the start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.descriptors import compile_protos
from tests.postgres import Database, PostgresCluster
from tests.servers import ServerProcess
from tests.transcripts import blocks, commands, matches

EXAMPLE = Path(__file__).parents[2] / "docs/examples/acme"
PAGE = (EXAMPLE / "README.md").read_text()
TWICE = """
syntax = "proto3";
package acme.other.v1;
import "workerqueue/v1/policy.proto";
message Invoice { option (workerqueue.v1.task) = {kind: "sendInvoice"}; }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example, and the set that contradicts it."""
    folder = tmp_path_factory.mktemp("acme") / "acme"
    shutil.copytree(EXAMPLE, folder)
    other = folder / "twice"
    other.mkdir()
    (other / "other.proto").write_text(TWICE)
    compile_protos([other / "other.proto"], [other], folder / "twice.binpb")
    return folder


@pytest.fixture(scope="module")
def acme_database(postgres: PostgresCluster) -> Iterator[Database]:
    """The shop's database, which the server uses too."""
    database = postgres.create_migrated_database()
    yield database
    postgres.drop_database(database)


def run(folder: Path, line: str, **environment: str) -> str:
    """What a command prints, errors included."""
    scripts = sysconfig.get_path("scripts")
    path = os.pathsep.join([scripts, os.environ["PATH"]])
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WORKERQUEUE_")}
    paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env={**kept, **environment, "PATH": path, "PYTHONPATH": paths, "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    ).stdout


def test_the_page_shows_what_happens(folder: Path, acme_database: Database) -> None:
    """Every transcript of the page, in its order; server and worker run from where they start."""
    shown = [c for b in blocks(PAGE) if b.language == "console" for c in commands(b)]
    compiling, listing, *rest, starting = shown
    for command in (compiling, listing):
        assert matches(run(folder, command.line), command.output), command.line
    server = ServerProcess(
        acme_database.dsn, arguments=["--descriptors", str(folder / "jobs.binpb")]
    )
    with server, worker_of(server, folder) as worker:
        for command in rest:
            printed = run(
                folder,
                command.line,
                WORKERQUEUE_ADDRESS=server.address,
                DATABASE_URL=acme_database.dsn,
            )
            assert matches(printed, command.output), f"{command.line}\n{printed}"
        worker.terminate()
        output, _ = worker.communicate(timeout=120)
    assert "order 42: 2 lines to ada@example.com\n" in output
    assert "`order 42: 2 lines to ada@example.com`" in PAGE
    printed = run(folder, starting.line)
    assert matches(printed, starting.output), printed


def worker_of(server: ServerProcess, folder: Path) -> subprocess.Popen[str]:
    """The example's worker."""
    paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "worker.py"],
        cwd=folder,
        env={
            **os.environ,
            "WORKERQUEUE_ADDRESS": server.address,
            "PYTHONPATH": paths,
            "PYTHONUNBUFFERED": "1",
        },
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_proto_shown_is_the_files() -> None:
    (block,) = [b for b in blocks(PAGE) if b.language == "proto"]
    assert block.text.strip() in (EXAMPLE / "proto/acme/jobs/v1/jobs.proto").read_text()


CONTRADICTIONS: dict[str, tuple[dict[str, str], str]] = {
    "one kind name, two messages": (
        {"a.proto": 'message A { option (workerqueue.v1.task) = {kind: "startRun"}; }'},
        "kind 'startRun' is claimed by both workerqueue.tasks.v1.StartRun and mine.v1.A",
    ),
    "one message in two files": (
        {
            "a.proto": "message A { option (workerqueue.v1.task) = {}; }",
            "b.proto": "message A { option (workerqueue.v1.task) = {}; }",
        },
        "contradicts what is loaded",
    ),
    "a template over nothing": (
        {"a.proto": 'message A { option (workerqueue.v1.task) = {job_key: "{id}"}; }'},
        "job_key of mine.v1.A: template '{id}': mine.v1.A has no field 'id'",
    ),
    "a policy out of bounds": (
        {"a.proto": "message A { option (workerqueue.v1.task) = {priority: 5000}; }"},
        "policy of mine.v1.A: priority must be -1000 to 1000, not 5000",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_contradiction_stops_the_start(name: str, tmp_path: Path, database: Database) -> None:
    sources, reason = CONTRADICTIONS[name]
    arguments = []
    for file, body in sources.items():
        root = tmp_path / file.removesuffix(".proto")
        root.mkdir()
        text = f'syntax = "proto3"; package mine.v1; import "workerqueue/v1/policy.proto"; {body}'
        (root / file).write_text(text)
        compile_protos([root / file], [root], root / "set.binpb")
        arguments += ["--descriptors", str(root / "set.binpb")]
    server = ServerProcess(database.dsn, arguments=arguments)
    server.launch()
    assert server.wait() == 3
    assert reason in server.log()


def test_a_kind_unknown_to_one_server_waits_for_another(
    folder: Path, acme_database: Database
) -> None:
    """A server without the descriptors, on the same database, leaves the kind's tasks alone."""
    plain = ServerProcess(acme_database.dsn, name="plain")
    knowing = ServerProcess(
        acme_database.dsn, arguments=["--descriptors", str(folder / "jobs.binpb")], name="knowing"
    )
    customer = '{"id": "c", "email": "c@example.com"}'
    order = f'{{"orderId": 45, "customer": {customer}, "lines": [{{"article": "a"}}]}}'
    with plain:
        with knowing:
            stored = run(
                folder,
                f"workerqueue enqueue --quiet sendInvoice '{order}'",
                WORKERQUEUE_ADDRESS=knowing.address,
            ).strip()
        refused = run(
            folder,
            f"workerqueue enqueue sendInvoice '{order}'",
            WORKERQUEUE_ADDRESS=plain.address,
        )
        assert "unknown task kind 'sendInvoice'" in refused
        with worker_of(plain, folder) as idle:
            shown = run(
                folder, f"workerqueue tasks show {stored}", WORKERQUEUE_ADDRESS=plain.address
            )
            assert "available" in shown
            idle.terminate()
            idle.communicate(timeout=120)
        with (
            ServerProcess(
                acme_database.dsn, arguments=["--descriptors", str(folder / "jobs.binpb")]
            ) as again,
            worker_of(again, folder) as worker,
        ):
            done = run(
                folder,
                f"workerqueue tasks watch {stored}",
                WORKERQUEUE_ADDRESS=again.address,
            )
            worker.terminate()
            worker.communicate(timeout=120)
        assert "succeeded" in done.lower()
