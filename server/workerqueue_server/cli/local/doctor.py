"""``workerqueue doctor``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import click

from workerqueue_server.cli.connection import Remote, remote_command
from workerqueue_server.cli.exits import Exit
from workerqueue_server.cli.findings import Finding, print_findings
from workerqueue_server.cli.groups import RemoteCommand
from workerqueue_server.cli.local.settings_flags import read_settings, settings_flags
from workerqueue_server.cli.output import print_json, print_json_line
from workerqueue_server.cli.remote.checkup import check_server


@click.command(cls=RemoteCommand)
@settings_flags("dsn", "listen_dsn")
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings, too.")
@remote_command
def doctor(remote: Remote, strict: bool, **flags: Any) -> None:
    """Check a server and its database, with advice.

    Asks the server for its health, workers and stuck queues. With --dsn it also looks at the
    database itself: version, schema, clock, durability, connections, vacuum, long transactions. It
    changes nothing. Exits with 1 if there is a problem.
    """
    settings = read_settings(flags).settings
    found = list(check_server(remote))
    if settings.dsn is not None:
        found += _database(settings.dsn, settings.listen_dsn)
    else:
        found.append(Finding("note", "database", "not looked at", "give --dsn to look at it"))
    if remote.output == "table":
        print_findings(found)
    elif remote.output == "json":
        print_json([finding.as_json() for finding in found])
    else:
        for finding in found:
            print_json_line(finding.as_json())
    failing = {"problem", "warning"} if strict else {"problem"}
    sys.exit(Exit.REFUSED if any(f.level in failing for f in found) else Exit.DONE)


def _database(dsn: str, listen_dsn: str | None) -> Iterator[Finding]:
    from workerqueue_server.cli.local.database_checkup import judge
    from workerqueue_server.store.diagnosis import diagnose
    from workerqueue_server.store.errors import StoreError

    try:
        diagnosis = asyncio.run(diagnose(dsn, listen_dsn))
    except StoreError as error:
        yield Finding(
            "problem", "database", f"does not answer: {error}", "is it running, is the DSN right?"
        )
        return
    yield from judge(diagnosis)
