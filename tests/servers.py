"""Real server processes for tests: started, stopped, killed, frozen, their logs at hand."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.ports import unused_port
from tests.warm import WARM_STARTS, WarmProcess

_START_SECONDS = 120.0
_STOP_SECONDS = 120.0
_POLL_SECONDS = 0.02
_SHOWN_LOG_LINES = 80

# What tests/warm.py starts.
_PROGRAM = ("-m", "workerqueue_server.cli.main")

_running: weakref.WeakSet[ServerProcess] = weakref.WeakSet()


class ServerProcess:
    """One `workerqueue serve` of the test's own, by default on the loopback interface.

    Leaving it as a context manager stops it and fails the test if its log tells of a fault.
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        data_dir: Path | None = None,
        arguments: Sequence[str] = (),
        drain_seconds: float = 5.0,
        name: str = "server",
        program: Sequence[str] = _PROGRAM,
        environment: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
    ) -> None:
        """Without a DSN the server runs the embedded database in `data_dir`.

        `program` is what Python runs as the command line; `environment` is added; `host` is where
        it listens; `prefix` is a command that runs another one somewhere else. A server with none
        of these and of one process is forked from one that has imported it (tests/warm.py).
        """
        self.name = name
        self._host = host
        self._environment = dict(environment or {})
        self._folder = Path(tempfile.mkdtemp(prefix="workerqueue-server-"))
        self._port_file = self._folder / "port"
        self.log_file = self._folder / "log"
        self._python = [*prefix, sys.executable, *program]
        self._warm = (
            sys.platform == "linux"
            and program == _PROGRAM
            and not prefix
            and dsn is not None
            and not self._environment
            # Parents of servers, and what OpenTelemetry reads when it is imported.
            and not any(argument.startswith(("--processes", "--otlp")) for argument in arguments)
        )
        self._command = [
            "serve",
            *("--port-file", str(self._port_file)),
            *("--drain-seconds", str(drain_seconds)),
            *(("--dsn", dsn) if dsn is not None else ()),
            *(("--data-dir", str(data_dir)) if data_dir is not None else ()),
            *arguments,
        ]
        self._process: subprocess.Popen[bytes] | WarmProcess | None = None
        self.port = unused_port()
        # Lines that a test provokes on purpose and that are no fault.
        self.tolerated = ""

    @property
    def address(self) -> str:
        """host:port that clients connect to."""
        return f"{self._host}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code; None while it runs."""
        return None if self._process is None else self._process.poll()

    def launch(self) -> None:
        """Starts the process without waiting for it to serve; again, on the port that it had."""
        self._port_file.unlink(missing_ok=True)
        with self.log_file.open("ab") as log:
            self._process = self._start(log)
        _running.add(self)

    def _start(self, log: IO[bytes]) -> subprocess.Popen[bytes] | WarmProcess:
        command = [*self._command, "--listen", self.address]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("WORKERQUEUE_")}
        if self._warm:
            with Path(os.devnull).open("rb") as nothing:
                return WARM_STARTS.start(
                    command,
                    environment=environment,
                    cwd=self._folder,
                    stdin=nothing,
                    stdout=log,
                    stderr=log,
                )
        return subprocess.Popen(
            [*self._python, *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self._folder,
            env=environment | self._environment,
            # A Ctrl-C for the tests must not reach the servers before the fixtures do.
            start_new_session=True,
        )

    def start(self) -> ServerProcess:
        """Starts the process and waits until its health is SERVING."""
        self.launch()
        self.wait_until_serving()
        return self

    def wait_until_serving(self) -> None:
        """Waits for the port file and a healthy answer."""
        deadline = time.monotonic() + _START_SECONDS
        while not self._port_file.exists():
            self._give_up_if(deadline)
            time.sleep(_POLL_SECONDS)
        self.port = int(self._port_file.read_text())
        while not self.is_serving():
            self._give_up_if(deadline)
            time.sleep(_POLL_SECONDS)

    @property
    def listens(self) -> bool:
        """Whether the process, since its launch, came so far as to take calls."""
        return self._port_file.exists()

    def is_serving(self) -> bool:
        """Whether the health service says SERVING."""
        with grpc.insecure_channel(self.address) as channel:
            try:
                stub: Any = health_pb2_grpc.HealthStub(channel)
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=2)
            except grpc.RpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def terminate(self) -> None:
        """Asks the process to drain and end, without waiting for it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """Asks the process to end and waits for it; the exit code."""
        self.terminate()
        return self.wait()

    def wait(self) -> int:
        """Waits for the end of the process; the exit code."""
        assert self._process is not None
        return self._process.wait(_STOP_SECONDS)

    def kill(self) -> None:
        """Kills the process (SIGKILL) and waits until it is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(_STOP_SECONDS)

    def freeze(self) -> None:
        """Stops the process where it is (SIGSTOP)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Ends `freeze`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def children(self) -> list[psutil.Process]:
        """All processes below the server's."""
        return psutil.Process(self.pid).children(recursive=True)

    def log(self) -> str:
        """Everything logged so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def faults(self) -> str:
        """The log's errors and what follows them, but for those that the test tolerates."""
        entries = re.split(r"\n(?=\d{4}-\d\d-\d\d )", self.log())
        bad = [e for e in entries if " ERROR " in e or "Traceback" in e or "never awaited" in e]
        if self.tolerated:
            bad = [entry for entry in bad if not re.search(self.tolerated, entry)]
        return "\n".join(bad)

    def __enter__(self) -> ServerProcess:
        if self._process is None:
            self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
                pytest.fail(f"{self.name} did not end after SIGTERM:\n{self._log_tail()}")
        if exc_type is not None:
            # Its log is part of the report of the test that failed.
            return
        _running.discard(self)
        if faults := self.faults():
            pytest.fail(f"{self.name} logged faults:\n{faults[:8000]}")

    def _give_up_if(self, deadline: float) -> None:
        if self.returncode is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{self.name} does not serve:\n{self._log_tail()}")

    def _log_tail(self) -> str:
        return "\n".join(self.log().splitlines()[-_SHOWN_LOG_LINES:])


@contextmanager
def servers(dsn: str, count: int, *, drain_seconds: float = 5.0) -> Iterator[list[ServerProcess]]:
    """Several servers on one database, started at the same moment."""
    group = [
        ServerProcess(dsn, name=f"server {n}", drain_seconds=drain_seconds) for n in range(count)
    ]
    with ExitStack() as stack:
        for server in group:
            server.launch()
            stack.enter_context(server)
        for server in group:
            server.wait_until_serving()
        yield group


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows the servers' logs with a failure; a conftest imports this hook."""
    report = yield
    if report.failed:
        for server in list(_running):
            log = "\n".join(server.log().splitlines()[-_SHOWN_LOG_LINES:])
            report.sections.append((f"log of {server.name} (exit: {server.returncode})", log))
    return report
