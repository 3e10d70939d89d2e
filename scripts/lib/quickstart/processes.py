"""The processes of the tour: started, killed, stopped, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_STOP_SECONDS = 20.0
_START_SECONDS = 60.0


class TourError(Exception):
    """The tour cannot go on, or did not go as it must."""


@dataclass(frozen=True)
class Child:
    """A process of ours and the file it logs to."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Processes:
    """Children that end with this context, whatever happens in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: dict[str, Child] = {}

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # In the reverse order: workers drain while there is a server to answer.
        for child in reversed(list(self._children.values())):
            self._stop(child)

    def start(self, name: str, module: str, *arguments: str, address: str = "") -> Child:
        """Starts a Python module as a child process."""
        log = self._folder / f"{name}.log"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("WORKERQUEUE_")}
        if address:
            environment["WORKERQUEUE_ADDRESS"] = address
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                # Ctrl-C is for the tour, which then stops its children in their order.
                start_new_session=True,
            )
        self._children[name] = Child(name, process, log)
        return self._children[name]

    def start_server(self, data_dir: Path) -> str:
        """Starts the server on a free port; its address, once it serves."""
        port_file = self._folder / "port"
        port_file.unlink(missing_ok=True)
        server = self.start(
            "server",
            "workerqueue_server.cli.main",
            "serve",
            *("--data-dir", str(data_dir)),
            *("--listen", "127.0.0.1:0"),
            *("--port-file", str(port_file)),
        )
        deadline = time.monotonic() + _START_SECONDS
        while not (port_file.exists() and port_file.read_text().strip()):
            if server.process.poll() is not None or time.monotonic() > deadline:
                raise TourError(f"the server did not start; it said:\n{server.log_tail()}")
            time.sleep(0.05)
        return f"127.0.0.1:{port_file.read_text().strip()}"

    def kill(self, name: str) -> int:
        """Kills a child with SIGKILL: it gets no chance to say goodbye. Its process id."""
        child = self._children[name]
        child.process.kill()
        child.process.wait()
        return child.process.pid

    def check_alive(self, but: str = "") -> None:
        """Raises TourError if a child has ended, except the named one."""
        for child in self._children.values():
            if child.name != but and child.process.poll() is not None:
                raise TourError(
                    f"{child.name} ended with status {child.process.returncode}; it said:\n"
                    f"{child.log_tail()}"
                )

    def stop(self, but: str = "") -> None:
        """Stops every child but the named one as an operator would.

        Raises:
            TourError: One of them did not end well.
        """
        for name in reversed(list(self._children)):
            child = self._children.pop(name)
            self._stop(child)
            if name != but and child.process.returncode:
                raise TourError(
                    f"{name} stopped with status {child.process.returncode}; it said:\n"
                    f"{child.log_tail()}"
                )

    def _stop(self, child: Child) -> None:
        child.process.send_signal(signal.SIGTERM)
        try:
            child.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
