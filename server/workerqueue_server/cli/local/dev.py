"""``workerqueue dev``."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from workerqueue_server import __version__
from workerqueue_server.app.configuration import DEFAULT
from workerqueue_server.app.logs import configure_logs
from workerqueue_server.app.schedule_file import ScheduleFileError
from workerqueue_server.app.server import run_server
from workerqueue_server.app.settings import Settings
from workerqueue_server.cli.exits import Exit
from workerqueue_server.cli.failures import Failure
from workerqueue_server.cli.local.settings_flags import read_settings, settings_flags
from workerqueue_server.queue.catalog import CatalogError
from workerqueue_server.rpc.tls import TlsError
from workerqueue_server.store.errors import StoreError

_NEXT = """
Try, in another terminal:
{export}  workerqueue kinds
  workerqueue enqueue startRun '{{"id": "run_1"}}'
  workerqueue tasks list
  workerqueue top
  grpcurl -plaintext {address} list

Ctrl-C stops the server; its data stays in {folder}.
"""


@click.command()
@settings_flags("address", "data_dir", "descriptors", "log_level", "allow_insecure")
def dev(**flags: Any) -> None:
    """Run a server with a database of its own, to try things.

    The same server as `serve`, always with the embedded PostgreSQL (by default in ./.workerqueue):
    a database that the environment or a settings file names is left alone. Not for production.
    """
    configuration = read_settings(flags, to_listen=True)
    if configuration.settings.dsn is not None:
        click.echo(f"workerqueue: dev leaves the database of {configuration.sources['dsn']} alone")
    settings = configuration.settings.model_copy(
        update={"dsn": None, "listen_dsn": None, "processes": 1, "log_format": "console"}
    )
    configure_logs(settings.log_level, settings.log_format)
    try:
        asyncio.run(run_server(settings, on_serving=lambda port: _greet(settings, port)))
    except OSError as error:
        hint = ""
        if configuration.sources["address"] == DEFAULT:
            hint = "does another server run? --listen 127.0.0.1:0 takes any free port"
        raise Failure(f"cannot start: {error}", Exit.UNREACHABLE, hint=hint) from error
    except (ScheduleFileError, TlsError) as error:
        raise Failure(f"cannot start: {error}", Exit.USAGE) from error
    except (CatalogError, StoreError) as error:
        raise Failure(f"cannot start: {error}", Exit.UNREACHABLE) from error


def _greet(settings: Settings, port: int) -> None:
    address = f"{settings.address.rpartition(':')[0]}:{port}"
    usual = Settings.model_fields["address"].default
    export = "" if address == usual else f"  export WORKERQUEUE_ADDRESS={address}\n"
    click.echo(f"workerqueue {__version__} serves on {address}")
    click.echo(_NEXT.format(export=export, address=address, folder=settings.data_dir))
