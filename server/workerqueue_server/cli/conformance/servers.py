"""Server processes to drain and kill, behind one address that stays the same."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from types import TracebackType

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from workerqueue.conformance.v1 import conformance_pb2

# Every limit here only bounds a failure: a busy machine starts nothing quickly.
START_SECONDS = 300.0
DRAIN_SECONDS = 10.0
_CHUNK = 64 * 1024


class CannotRun(Exception):
    """The kit itself does not get its servers to run; the message says why."""


def write_descriptors(path: Path) -> None:
    """Writes the descriptor set with the kit's own task kind."""
    files = FileDescriptorSet()
    _add(conformance_pb2.DESCRIPTOR, files, set())
    path.write_bytes(files.SerializeToString())


def _add(file: FileDescriptor, files: FileDescriptorSet, seen: set[str]) -> None:
    if file.name in seen:
        return
    seen.add(file.name)
    for dependency in file.dependencies:
        _add(dependency, files, seen)
    file.CopyToProto(files.file.add())


class ServerProcess:
    """One `workerqueue serve` on a free port."""

    def __init__(self, folder: Path, dsn: str, descriptors: Path, number: int) -> None:
        """``folder`` takes its port file and its log."""
        self.port = 0
        self.log = folder / f"server-{number}.log"
        self._port_file = folder / f"server-{number}.port"
        self._command = [
            *(sys.executable, "-m", "workerqueue_server.cli.main", "serve"),
            *("--listen", "127.0.0.1:0", "--port-file", str(self._port_file)),
            *("--descriptors", str(descriptors), "--drain-seconds", str(DRAIN_SECONDS)),
        ]
        # By environment: a command line is for everybody to read, and a DSN may hold a password.
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("WORKERQUEUE_")},
            "WORKERQUEUE_DSN": dsn,
        }
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Returns when it listens. Raises CannotRun with the end of its log."""
        with self.log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                while self._process.returncode is None:
                    if self._port_file.exists():
                        self.port = int(self._port_file.read_text())
                        return
                    await asyncio.sleep(0.05)
        end = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
        raise CannotRun(f"the server did not start:\n{end}")

    def drain(self) -> None:
        """Asks it to go away (SIGTERM)."""
        self._signal(signal.SIGTERM)

    async def kill(self) -> None:
        """Ends it without a word."""
        self._signal(signal.SIGKILL)
        await self.gone()

    async def stop(self) -> None:
        """Asks it to go away, and sees to it."""
        self.drain()
        try:
            async with asyncio.timeout(DRAIN_SECONDS + 10.0):
                await self.gone()
        except TimeoutError:
            await self.kill()

    async def gone(self) -> None:
        """Waits until it has ended."""
        if self._process is not None:
            await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)


class Forwarder:
    """A TCP port that leads to whichever server is current.

    Connections that are open stay with the server they were made to.
    """

    def __init__(self) -> None:
        """Leads nowhere until ``target`` is set."""
        self.target: int | None = None
        self.turned_away = 0
        """How many connections were made while it led nowhere."""
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """host:port for the program under test."""
        assert self._listener is not None
        return f"127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Forwarder:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._listener is not None
        self._listener.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if self.target is None:
                self.turned_away += 1
            else:
                await _join(reader, writer, self.target)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.transport.abort()


async def _join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
    ways = [
        asyncio.create_task(_copy(reader, far_writer)),
        asyncio.create_task(_copy(far_reader, writer)),
    ]
    try:
        # Either end may close first; the other one then has nobody to talk to.
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        far_writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
