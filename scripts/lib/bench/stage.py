"""What a measurement runs on: a PostgreSQL, a database of its own and a server on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from workerqueue_server.store.embedded import EmbeddedPostgres

_START_SECONDS = 120.0
_COUNTED_SECONDS = 11.0


class StageError(Exception):
    """The stage could not be set, with the reason."""


@dataclass(frozen=True)
class Usage:
    """CPU seconds (each server process by itself) and bytes of WAL used so far."""

    server: tuple[float, ...]
    postgres: float
    wal: int

    def since(self, start: Usage) -> Usage:
        """What was used between two looks."""
        return Usage(
            tuple(now - then for now, then in zip(self.server, start.server, strict=True)),
            self.postgres - start.postgres,
            self.wal - start.wal,
        )


@dataclass(frozen=True)
class Writes:
    """What a database has written so far."""

    commits: int
    # Row versions that were made dead: what vacuum has to clean up.
    dead: int
    updates: int
    # Updates in place, which touched no index.
    hot: int
    wal: int


@dataclass(frozen=True)
class Stage:
    """A running server on an empty database."""

    dsn: str
    target: str
    server: psutil.Process

    def usage(self) -> Usage:
        """What the server and PostgreSQL have used."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            row = connection.execute(
                "select pg_backend_pid(), pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::int8"
            ).fetchone()
        assert row is not None
        return Usage(
            tuple(_cpu_seconds(process) for process in self.processes()),
            _postgres_seconds(self._postmaster()),
            row[1],
        )

    def processes(self) -> list[psutil.Process]:
        """The server's processes, the first one first."""
        return [self.server, *sorted(self.server.children(recursive=True), key=lambda p: p.pid)]

    def resident_mb(self) -> float:
        """Memory of the largest server process, in MB."""
        return max(process.memory_info().rss for process in self.processes()) / 1e6

    def writes(self) -> Writes:
        """What was written up to some seconds ago: PostgreSQL counts with a delay.

        An idle backend reports what it did within 10 s.
        """
        time.sleep(_COUNTED_SECONDS)
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            row = connection.execute(
                "select xact_commit, t.dead, t.updates, t.hot, "
                "pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::int8 "
                "from pg_stat_database, (select sum(n_tup_upd + n_tup_del)::int8 as dead, "
                "sum(n_tup_upd)::int8 as updates, sum(n_tup_hot_upd)::int8 as hot "
                "from pg_stat_user_tables where schemaname = 'workerqueue') t "
                "where datname = current_database()"
            ).fetchone()
        assert row is not None
        return Writes(*row)

    def settle(self) -> None:
        """Writes out what earlier work left to write, so that each measurement starts alike."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("checkpoint")

    def _postmaster(self) -> psutil.Process | None:
        """None where PostgreSQL runs on another machine."""
        with psycopg.connect(self.dsn) as connection:
            try:
                return psutil.Process(connection.info.backend_pid).parent()
            except psutil.NoSuchProcess:
                return None


@contextlib.contextmanager
def cluster(dsn: str | None) -> Iterator[str]:
    """The DSN of the PostgreSQL to measure on: the given one, or a new embedded one."""
    if dsn is not None:
        yield dsn
        return
    folder = Path(tempfile.mkdtemp(prefix="workerqueue-bench-"))
    postgres = EmbeddedPostgres(folder)
    try:
        yield asyncio.run(postgres.start())
    finally:
        asyncio.run(postgres.stop())
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def database(admin_dsn: str, name: str) -> Iterator[str]:
    """The DSN of a new database of the cluster, gone afterwards."""
    chosen = f"workerqueue_bench_{name.replace('-', '_')}"
    _administer(admin_dsn, "drop database if exists {} with (force)", chosen)
    _administer(admin_dsn, "create database {}", chosen)
    try:
        yield make_conninfo(admin_dsn, dbname=chosen)
    finally:
        _administer(admin_dsn, "drop database if exists {} with (force)", chosen)


@contextlib.contextmanager
def served(admin_dsn: str, name: str, processes: int) -> Iterator[Stage]:
    """A new database of the cluster and a server on it; both gone afterwards."""
    with (
        database(admin_dsn, name) as dsn,
        tempfile.TemporaryDirectory(prefix="workerqueue-bench-") as folder,
        _server(dsn, Path(folder), processes) as (process, target),
    ):
        yield Stage(dsn, target, psutil.Process(process.pid))


@contextlib.contextmanager
def _server(
    dsn: str, folder: Path, processes: int
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    port_file, log_file = folder / "port", folder / "log"
    command = [sys.executable, "-m", "workerqueue_server.cli.main", "serve"]
    command += ["--dsn", dsn, "--listen", "127.0.0.1:0", "--port-file", str(port_file)]
    if processes > 1:
        command += ["--processes", str(processes)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WORKERQUEUE_")}
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        yield process, f"127.0.0.1:{_wait_for_port(process, port_file, log_file)}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_port(process: subprocess.Popen[bytes], port_file: Path, log_file: Path) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if port_file.exists() and (port := port_file.read_text().strip()):
            return port
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise StageError(f"the server did not start:\n{log_file.read_text()}")


def _administer(dsn: str, statement: str, database: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(sql.Identifier(database)))


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


def _postgres_seconds(postmaster: psutil.Process | None) -> float:
    """Backends that have left are counted in the postmaster's children's time."""
    if postmaster is None:
        return float("nan")
    times = postmaster.cpu_times()
    left = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    living = sum(_cpu_seconds(child) for child in postmaster.children(recursive=True))
    return _cpu_seconds(postmaster) + float(left) + living
