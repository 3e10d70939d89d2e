"""``workerqueue serve``."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import click

from workerqueue_server.app.logs import configure_logs
from workerqueue_server.app.processes import run_processes
from workerqueue_server.app.schedule_file import ScheduleFileError
from workerqueue_server.app.server import run_server
from workerqueue_server.cli.exits import Exit
from workerqueue_server.cli.failures import Failure
from workerqueue_server.cli.local.settings_flags import read_settings, settings_flags
from workerqueue_server.queue.catalog import CatalogError
from workerqueue_server.rpc.tls import TlsError
from workerqueue_server.store.errors import StoreError


@click.command()
@settings_flags()
def serve(**flags: Any) -> None:
    """Run the server until SIGTERM.

    Every flag is a setting; each can also stand in the environment or in a TOML file (--config).
    Without a database (--dsn) the server runs one of its own in --data-dir.
    """
    settings = read_settings(flags, to_listen=True).settings
    configure_logs(settings.log_level, settings.log_format)
    try:
        if settings.processes > 1:
            sys.exit(run_processes(settings))
        asyncio.run(run_server(settings))
    except (ScheduleFileError, TlsError) as error:
        raise Failure(f"cannot start: {error}", Exit.USAGE) from error
    except (CatalogError, StoreError, OSError) as error:
        raise Failure(f"cannot start: {error}", Exit.UNREACHABLE) from error
