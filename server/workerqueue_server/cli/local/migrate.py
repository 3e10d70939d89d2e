"""``workerqueue migrate``."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from workerqueue_server.cli.exits import Exit
from workerqueue_server.cli.failures import Failure
from workerqueue_server.cli.local.settings_flags import read_settings, settings_flags
from workerqueue_server.store import migrator
from workerqueue_server.store.errors import StoreError


@click.command()
@click.argument("action", type=click.Choice(["up", "status"]), default="up")
@settings_flags("dsn")
def migrate(action: str, **flags: Any) -> None:
    """Bring the database's schema up to date (up), or show where it is (status).

    Migrations only go forward, are safe to run from several places at once, and leave the schema
    usable for the previous release. `status` exits with 1 if any are missing.
    """
    dsn = read_settings(flags).settings.dsn
    if dsn is None:
        raise click.UsageError("name the database with --dsn (WORKERQUEUE_DSN)")
    try:
        if action == "up":
            done = asyncio.run(migrator.migrate(dsn))
            for migration in done:
                click.echo(f"applied {migration.version:04} {migration.name}")
            if not done:
                click.echo("nothing to do: the schema is up to date")
            return
        applied = asyncio.run(migrator.applied_versions(dsn))
    except StoreError as error:
        raise Failure(str(error), Exit.UNREACHABLE) from error
    _show(applied)


def _show(applied: dict[int, str]) -> None:
    known = migrator.load_migrations()
    names = {migration.version: migration.name for migration in known} | applied
    for version, name in sorted(names.items()):
        if version not in applied:
            state = "missing"
        elif version > known[-1].version:
            state = "applied by a newer release"
        else:
            state = "applied"
        click.echo(f"{version:04} {name}: {state}")
    missing = sum(migration.version not in applied for migration in known)
    if missing:
        raise Failure(f"{missing} missing", hint="`workerqueue migrate` applies them")
