"""``workerqueue serve | migrate | health``."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import ValidationError

from workerqueue_server import __version__
from workerqueue_server.app.logs import configure_logs
from workerqueue_server.app.processes import run_processes
from workerqueue_server.app.server import run_server
from workerqueue_server.app.settings import Settings
from workerqueue_server.queue.catalog import CatalogError
from workerqueue_server.store.errors import StoreError
from workerqueue_server.store.migrator import applied_versions, load_migrations, migrate

_CANNOT_START = 3


@click.group()
@click.version_option(__version__, prog_name="workerqueue")
def main() -> None:
    """A worker queue that any language can work on."""


def _settings(**flags: Any) -> Settings:
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    try:
        return Settings(**given)
    except ValidationError as error:
        problems = "\n".join(
            f"  {e['loc'][0]} (WORKERQUEUE_{str(e['loc'][0]).upper()}): {e['msg']}"
            for e in error.errors()
        )
        raise click.UsageError(f"wrong settings:\n{problems}") from error


@main.command()
@click.option("--listen", "address", metavar="HOST:PORT", help="Where to listen [127.0.0.1:50551].")
@click.option("--dsn", help="PostgreSQL 15 or newer; without it the embedded Postgres runs.")
@click.option("--listen-dsn", help="DSN for LISTEN, where --dsn goes through PgBouncer.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Embedded Postgres' folder.")
@click.option(
    "--descriptors",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A descriptor set with your own task kinds; repeatable.",
)
@click.option("--processes", type=int, help="Server processes that share the port [1].")
@click.option("--drain-seconds", type=float, help="Time for workers to finish at SIGTERM [10].")
@click.option("--reflection/--no-reflection", default=None, help="Answer reflection [yes].")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
@click.option("--log-format", type=click.Choice(["console", "json"]))
@click.option("--port-file", type=click.Path(path_type=Path), help="Write the bound port here.")
@click.option("--migrate/--no-migrate", default=None, help="Bring the schema up to date [yes].")
def serve(**flags: Any) -> None:
    """Run the server until SIGTERM."""
    settings = _settings(**flags)
    configure_logs(settings.log_level, settings.log_format)
    try:
        if settings.processes > 1:
            sys.exit(run_processes(settings))
        asyncio.run(run_server(settings))
    except (CatalogError, StoreError, OSError) as error:
        click.echo(f"workerqueue: cannot start: {error}", err=True)
        sys.exit(_CANNOT_START)


@main.command("migrate")
@click.argument("action", type=click.Choice(["up", "status"]), default="up")
@click.option("--dsn", help="The database.")
def migrate_command(action: str, dsn: str | None) -> None:
    """Bring the database's schema up to date, or show where it is."""
    settings = _settings(dsn=dsn)
    if settings.dsn is None:
        raise click.UsageError("name the database with --dsn (WORKERQUEUE_DSN)")
    try:
        if action == "up":
            for migration in asyncio.run(migrate(settings.dsn)):
                click.echo(f"applied {migration.version:04} {migration.name}")
        applied = asyncio.run(applied_versions(settings.dsn))
    except StoreError as error:
        click.echo(f"workerqueue: {error}", err=True)
        sys.exit(_CANNOT_START)
    for migration in load_migrations():
        state = "applied" if migration.version in applied else "missing"
        click.echo(f"{migration.version:04} {migration.name}: {state}")


@main.command()
@click.option("--address", help="The server [WORKERQUEUE_ADDRESS or 127.0.0.1:50551].")
@click.option("--timeout", type=float, default=3.0, show_default=True, help="Seconds to wait.")
def health(address: str | None, timeout: float) -> None:
    """Exit 0 if the server is serving, 1 if not."""
    target = address or os.environ.get("WORKERQUEUE_ADDRESS") or "127.0.0.1:50551"
    # Where a server listens everywhere, it is asked on this machine.
    target = target.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:")
    try:
        with grpc.insecure_channel(target) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout)
    except grpc.RpcError as error:
        click.echo(f"{target}: {error.code().name}", err=True)
        sys.exit(1)
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    click.echo(f"{target}: {name}")
    sys.exit(0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1)


if __name__ == "__main__":
    main()
