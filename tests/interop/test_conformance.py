"""Workers in several languages, each made from the contract alone, against the conformance kit."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.interop.builds import HERE, LANGUAGES, Language
from tests.interop.shell_clients import grpcurl
from tests.postgres import Database

# A build from nothing, and the kit.
pytestmark = pytest.mark.timeout(850)

_KIT_SECONDS = 420
_PYTHON = HERE / "python"


def run_kit(database: Database, *arguments: str) -> tuple[int, dict[str, bool], str]:
    """The exit code, which scenarios passed, and all that the kit said."""
    kit = (sys.executable, "-m", "workerqueue_server.cli.main", "conformance")
    done = subprocess.run(
        (*kit, "--dsn", database.dsn, *arguments),
        cwd=HERE.parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_KIT_SECONDS,
        check=False,
    )
    rows = re.findall(r"^(pass|FAIL)  (\S+)", done.stdout, re.MULTILINE)
    return done.returncode, {name: verdict == "pass" for verdict, name in rows}, done.stdout


def only(names: Sequence[str]) -> list[str]:
    """The arguments that run these scenarios."""
    return [argument for name in names for argument in ("--scenario", name)]


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.name)
def test_language_passes_every_scenario(language: Language, database: Database) -> None:
    language.build()
    code, passed, said = run_kit(
        database,
        *("--command", language.worker.format(folder=language.folder)),
        *("--producer", language.producer.format(folder=language.folder)),
    )
    assert code == 0, said
    assert passed
    assert all(passed.values())


@pytest.mark.slow
def test_python_stubs_pass_every_scenario(database: Database) -> None:
    code, passed, said = run_kit(
        database,
        *("--command", f"{sys.executable} {_PYTHON / 'worker.py'}"),
        *("--producer", f"{sys.executable} {_PYTHON / 'producer.py'}"),
    )
    assert code == 0, said
    assert passed
    assert all(passed.values())


@pytest.mark.slow
def test_shell_passes_its_scenarios(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    client = grpcurl()
    if client is None or shutil.which("jq") is None:
        pytest.skip("shell: not tested, because grpcurl (or go to build it) or jq is not here")
    monkeypatch.setenv("GRPCURL", client.command[0])
    # A process for each call: the scenarios of speed and of broken servers are not for it.
    names = ["ack", "nack", "checkpoint", "cancel", "catalog", "own-kind", "produce"]
    code, passed, said = run_kit(
        database,
        *("--command", str(HERE / "shell" / "worker.sh")),
        *("--producer", str(HERE / "shell" / "producer.sh")),
        *only(names),
    )
    assert code == 0, said
    assert passed == dict.fromkeys(names, True)


@pytest.mark.slow
def test_broken_worker_fails(database: Database) -> None:
    command = f"{sys.executable} -m tests.interop.python.broken_worker"
    names = ["ack", "nack", "permanent-failure", "heartbeat"]
    code, passed, said = run_kit(database, "--command", command, *only(names))
    assert code == 1, said
    assert passed == {
        "ack": True,
        "nack": False,
        "permanent-failure": False,
        "heartbeat": False,
    }


def test_program_that_cannot_start_fails(database: Database) -> None:
    code, passed, said = run_kit(database, "--command", "/no/such/program", *only(["ack"]))
    assert code == 1, said
    assert passed == {"ack": False}
    assert "cannot start /no/such/program" in said
