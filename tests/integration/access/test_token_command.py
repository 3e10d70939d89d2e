"""`workerqueue token` against a database, and what servers make of it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.integration.cli.commands import Cli
from tests.postgres import Database
from tests.servers import ServerProcess
from tests.tokens import token_id


@pytest.fixture
def cli(server: ServerProcess, server_database: Database) -> Cli:
    """The command line, with the server's address and database."""
    return Cli(server.address, WORKERQUEUE_DSN=server_database.dsn)


async def test_a_token_is_made_used_listed_and_revoked(cli: Cli) -> None:
    made = await cli("token", "create", "ops of Ada", "--role", "operator", "--expires", "1d")
    text = made.out.strip()
    assert "good until" in made.err
    assert text not in made.err
    assert (await cli("queues", "list", WORKERQUEUE_TOKEN=text)).code == 0
    assert (
        "ROLE_MISSING"
        in (await cli("enqueue", "startRun", '{"id":"r"}', code=4, WORKERQUEUE_TOKEN=text)).err
    )
    listed = json.loads((await cli("token", "list", "-o", "json")).out)
    (entry,) = [entry for entry in listed if entry["token_id"] == token_id(text)]
    assert (entry["name"], entry["roles"], entry["state"]) == ("ops of Ada", ["operator"], "active")
    assert text.split("_", 2)[2] not in json.dumps(listed)
    assert (await cli("token", "revoke", token_id(text))).out == f"revoked {token_id(text)}\n"
    refused = await cli("queues", "list", code=4, WORKERQUEUE_TOKEN=text)
    assert "UNAUTHENTICATED (TOKEN_REVOKED)" in refused.err
    assert token_id(text) not in (await cli("token", "list")).out
    assert "revoked" in (await cli("token", "list", "--all")).out


async def test_a_token_goes_into_a_file_of_its_owner(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "token"
    create = ("token", "create", "x", "--role", "worker", "--queue", "a*", "--save", str(path))
    made = await cli(*create)
    assert made.out == ""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().strip() not in made.err
    assert "exists already" in (await cli(*create, code=2)).err
    denied = await cli("queues", "list", code=4, WORKERQUEUE_TOKEN_FILE=str(path))
    assert "this token is for worker" in denied.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("create", "x"), "--role"),
        (("create", "x", "--role", "admin"), "'producer', 'worker', 'operator'"),
        (("create", "x", "--role", "operator", "--queue", "a"), "has no scope"),
        (("create", "x", "--role", "worker", "--queue", "a*b"), "--queue 'a*b'"),
        (("create", "x", "--role", "worker", "--kind", ""), "--kind ''"),
        (("create", "x", "--role", "worker", "--expires", "0s"), "above 0"),
        (("create", " ", "--role", "worker"), "printable"),
        (("revoke", f"wq_{'0' * 16}_{'A' * 43}"), "does not belong on a command line"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    cli: Cli, arguments: tuple[str, ...], reason: str
) -> None:
    assert reason in (await cli("token", *arguments, code=2)).err


async def test_an_unknown_token_cannot_be_revoked(cli: Cli) -> None:
    ended = await cli("token", "revoke", "0" * 16, code=1)
    assert f"there is no token {'0' * 16}" in ended.err


async def test_without_a_token_the_command_line_says_how_to_get_one(cli: Cli) -> None:
    ended = await cli("queues", "list", code=4)
    assert "TOKEN_MISSING" in ended.err
    assert "workerqueue token create" in ended.err
