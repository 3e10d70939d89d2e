"""One server process, from start to drain."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from workerqueue_server.app.exposure import what_is_open
from workerqueue_server.app.memory import give_back_large_blocks
from workerqueue_server.app.schedule_file import ScheduleFile, load_schedule_file, reconcile
from workerqueue_server.app.settings import Settings
from workerqueue_server.app.telemetry import start_telemetry
from workerqueue_server.queue.catalog import Catalog, CatalogError
from workerqueue_server.queue.engine import Engine
from workerqueue_server.queue.schedules import Reconciled
from workerqueue_server.rpc.enqueue_requests import EnqueueReader
from workerqueue_server.rpc.server import RpcServer
from workerqueue_server.rpc.tls import TlsFiles, server_credentials
from workerqueue_server.store.embedded import EmbeddedPostgres
from workerqueue_server.store.migrator import migrate, require_schema

_log = logging.getLogger(__name__)


def load_catalog(paths: tuple[Path, ...]) -> Catalog:
    """The built-in kinds and those of the descriptor sets. Raises CatalogError."""
    sets = {}
    for path in paths:
        try:
            sets[str(path)] = path.read_bytes()
        except OSError as error:
            raise CatalogError(f"cannot read descriptor set {path}: {error.strerror}") from error
    return Catalog.load(sets)


def tls_files(settings: Settings) -> TlsFiles | None:
    """Where the certificates are; None: the server speaks plain text."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


async def run_server(
    settings: Settings,
    *,
    share_port: bool = False,
    on_serving: Callable[[int], None] | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    ``on_serving`` is called with the bound port once calls are answered. Raises CatalogError,
    ScheduleFileError, TlsError, StoreError or OSError with the reason when it cannot start.
    """
    give_back_large_blocks()
    certificates = tls_files(settings)
    credentials = server_credentials(certificates) if certificates is not None else None
    catalog = load_catalog(settings.descriptors)
    read_task = EnqueueReader(catalog).read
    declared = load_schedule_file(settings.schedules, read_task) if settings.schedules else None
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        dsn = settings.dsn
        if dsn is None:
            dsn = await stack.enter_async_context(EmbeddedPostgres(settings.data_dir))
            _log.info("embedded Postgres runs in %s", settings.data_dir)
        if settings.migrate:
            for migration in await migrate(dsn):
                _log.info("applied migration %04d %s", migration.version, migration.name)
        else:
            await require_schema(dsn)
        engine = Engine(
            dsn,
            catalog,
            read_task,
            listen_dsn=settings.listen_dsn,
            in_flight_per_principal=settings.max_in_flight_per_token,
            max_lanes=settings.max_lanes,
        )
        start_telemetry(settings, engine, stack)
        await engine.start()
        stack.push_async_callback(engine.stop)
        if declared is not None:
            _tell(declared, await reconcile(engine.schedules, declared))
        server = RpcServer(
            engine,
            reflection_enabled=settings.reflection,
            share_port=share_port,
            tokens_required=settings.auth == "tokens",
            credentials=credentials,
            streams_per_principal=settings.max_streams_per_token,
        )
        port = server.bind(settings.address)
        await server.start()
        _log.info(
            "%s serves %d kinds on %s:%d, %s, %s",
            engine.server_id,
            len(catalog.kinds),
            settings.address.rpartition(":")[0],
            port,
            _transport(settings),
            "bearer tokens" if settings.auth == "tokens" else "no tokens",
        )
        if what_is_open(settings):
            _log.warning("beyond this machine all can read or call this: allow_insecure is set")
        if settings.port_file is not None:
            _write_port(settings.port_file, port)
        if on_serving is not None:
            on_serving(port)
        await stopping.wait()
        _log.info("draining for up to %g s", settings.drain_seconds)
        await server.stop(settings.drain_seconds)
    _log.info("stopped")


def _tell(declared: ScheduleFile, done: Reconciled) -> None:
    _log.info(
        "schedules of %s: %d in all, %d created, %d updated, %d deleted",
        declared.path,
        len(declared.schedules),
        len(done.created),
        len(done.updated),
        len(done.deleted),
    )


def _transport(settings: Settings) -> str:
    if settings.tls_cert is None:
        return "plain text"
    return "mutual TLS" if settings.tls_client_ca is not None else "TLS"


def _write_port(path: Path, port: int) -> None:
    # Readers wait for the file, so it must never be seen half written.
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(f"{port}\n")
    partial.replace(path)
