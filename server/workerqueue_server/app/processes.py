"""Several server processes on one port (SO_REUSEPORT).

To the database they are the same as servers on several machines. The parent runs no gRPC and no
event loop of the queue: gRPC objects do not survive a fork, so children are spawned.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import signal
import socket
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess

from workerqueue_server.app.logs import configure_logs
from workerqueue_server.app.server import run_server, tls_files
from workerqueue_server.app.settings import Settings
from workerqueue_server.rpc.tls import check_files
from workerqueue_server.store.embedded import EmbeddedPostgres
from workerqueue_server.store.migrator import migrate

_log = logging.getLogger(__name__)


def run_processes(settings: Settings) -> int:
    """Runs ``settings.processes`` servers until SIGTERM; the exit code.

    A child that dies takes the others down with it, so that a supervisor restarts the whole. Raises
    TlsError.
    """
    if (files := tls_files(settings)) is not None:
        # Here, so that it is said once and in time, and not by each child.
        check_files(files)
    return asyncio.run(_run(settings))


async def _run(settings: Settings) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    embedded = None if settings.dsn else EmbeddedPostgres(settings.data_dir)
    dsn = settings.dsn or (await embedded.start() if embedded else "")
    try:
        if settings.migrate:
            await migrate(dsn)
        with _reserve(settings.address) as reserved:
            host = settings.address.rpartition(":")[0]
            port = reserved.getsockname()[1]
            shared = settings.model_copy(
                update={
                    "dsn": dsn,
                    "address": f"{host}:{port}",
                    "migrate": False,
                    "processes": 1,
                }
            )
            return await _supervise(shared, settings.processes, stopping)
    finally:
        if embedded is not None:
            await embedded.stop()


async def _supervise(settings: Settings, count: int, stopping: asyncio.Event) -> int:
    context = multiprocessing.get_context("spawn")
    children = [
        context.Process(
            target=_child,
            args=(settings_of(settings, number),),
            name=f"workerqueue-{number}",
        )
        for number in range(count)
    ]
    for child in children:
        child.start()
    loop = asyncio.get_running_loop()
    for child in children:
        loop.add_reader(child.sentinel, stopping.set)
    await stopping.wait()
    stopped = []
    for child in children:
        loop.remove_reader(child.sentinel)
        if child.is_alive():
            child.terminate()
            stopped.append(child)
    for child in children:
        await asyncio.to_thread(child.join, settings.drain_seconds + 10)
    return _exit_code(children, stopped)


def settings_of(settings: Settings, number: int) -> Settings:
    """What each process has for itself: only the first writes the port file."""
    if number == 0:
        return settings
    own: dict[str, object] = {"port_file": None}
    if settings.prometheus_address is not None:
        host, _, port = settings.prometheus_address.rpartition(":")
        # Port 0 is a free one for each.
        own["prometheus_address"] = f"{host}:{int(port) + number if int(port) else 0}"
    return settings.model_copy(update=own)


def _exit_code(children: Sequence[BaseProcess], stopped: Sequence[BaseProcess]) -> int:
    # A child that was still starting has no handler for the signal yet, and ends by it.
    failed = [
        child
        for child in children
        if child.exitcode != 0 and not (child in stopped and child.exitcode == -signal.SIGTERM)
    ]
    for child in failed:
        _log.error("%s ended with exit code %s", child.name, child.exitcode)
    return 1 if failed else 0


def _child(settings: Settings) -> None:
    configure_logs(settings.log_level, settings.log_format)
    try:
        asyncio.run(run_server(settings, share_port=True))
    except Exception as error:  # noqa: BLE001 - the process ends with the reason
        _log.error("cannot serve: %s", error)
        sys.exit(1)


def _reserve(address: str) -> socket.socket:
    """Binds the port without listening, so that port 0 means one port for all children."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    reserved = socket.socket(family, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind((host.strip("[]"), int(port)))
    return reserved
