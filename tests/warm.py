"""Programs of this project in processes of their own that need not import anything first.

Most of what a server or a command of the command line costs here is its imports, a second of
processor time and more. So one process imports them all, holds no thread and no gRPC object, and
forks for each start. What runs is a process like any other, with arguments, environment, folder,
session and streams of its own, to be signalled, killed and waited for. What depends on how a
process begins (the command as it is installed, children of its own, a terminal) is tested with
`subprocess`.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]

# The pid, and later the exit code, each as text in so many bytes.
_NUMBER_BYTES = 12
_MESSAGE_BYTES = 1 << 20
_PRELOADED = (
    "rich.live",
    "rich.table",
    "workerqueue_server.app.server",
    "workerqueue_server.cli.local.serve",
    "workerqueue_server.cli.main",
    "workerqueue_server.cli.remote.enqueue",
    "workerqueue_server.cli.remote.queues",
    "workerqueue_server.cli.remote.tasks",
)


class WarmProcess:
    """A process that was forked; of `subprocess.Popen` what tests use."""

    def __init__(self, pid: int, told: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._told = told

    def poll(self) -> int | None:
        """The exit code; None while it runs. Negative: the signal that killed it."""
        if self.returncode is None and _readable(self._told, 0):
            self._read()
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Waits for the end; the exit code. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            if not _readable(self._told, timeout):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            self._read()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Sends SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def _read(self) -> None:
        text = os.read(self._told, _NUMBER_BYTES)
        os.close(self._told)
        if not text:
            raise RuntimeError(f"nobody waits for process {self.pid} any more")
        self.returncode = int(text)


class WarmStarts:
    """The process that forks, started when first asked for."""

    def __init__(self) -> None:
        self._forker: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def start(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        cwd: Path | None,
        stdin: IO[bytes],
        stdout: IO[bytes],
        stderr: IO[bytes],
    ) -> WarmProcess:
        """Starts `workerqueue` with these arguments in a session of its own."""
        connection = self._connection()
        told, tell = os.pipe()
        order = {
            "arguments": list(arguments),
            "environment": dict(environment),
            "cwd": str(cwd or Path.cwd()),
        }
        streams = [stream.fileno() for stream in (stdin, stdout, stderr)]
        try:
            socket.send_fds(connection, [json.dumps(order).encode()], [*streams, tell])
        finally:
            os.close(tell)
        pid = os.read(told, _NUMBER_BYTES)
        if not pid:
            raise RuntimeError("the process that forks is gone")
        return WarmProcess(int(pid), told)

    def close(self) -> None:
        """Ends the process that forks."""
        if self._forker is not None and self._socket is not None:
            self._socket.close()
            self._forker.wait(60)
        self._forker = self._socket = None

    def _connection(self) -> socket.socket:
        if self._socket is None:
            self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with other:
                self._forker = subprocess.Popen(
                    [
                        sys.executable,
                        "-c",
                        "from tests.warm import run; run()",
                        str(other.fileno()),
                    ],
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[other.fileno()],
                    # A Ctrl-C for the tests must not reach what it forks before the fixtures do.
                    start_new_session=True,
                )
        return self._socket


WARM_STARTS = WarmStarts()


def _readable(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLHUP)
    return bool(poll.poll(seconds * 1000))


class _Forker:
    """Forks on order and tells the end of each child to who ordered it."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders
        self._tell: dict[int, int] = {}
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake)

    def serve(self) -> list[str] | None:
        """Until there will be no more orders: None. In a child: what it is to run."""
        sources: list[socket.socket | int] = [self._orders, self._woken]
        while True:
            ready, _, _ = select.select(sources, [], [])
            if self._woken in ready:
                os.read(self._woken, 512)
                self._reap()
            if self._orders in ready:
                message, descriptors, _, _ = socket.recv_fds(self._orders, _MESSAGE_BYTES, 4)
                if not message:
                    return None
                if (arguments := self._fork(message, descriptors)) is not None:
                    return arguments

    def _fork(self, message: bytes, descriptors: list[int]) -> list[str] | None:
        *streams, tell = descriptors
        pid = os.fork()
        if pid == 0:
            return self._become(json.loads(message), streams, tell)
        for stream in streams:
            os.close(stream)
        self._tell[pid] = tell
        os.write(tell, str(pid).encode().ljust(_NUMBER_BYTES))
        return None

    def _become(self, order: dict[str, Any], streams: list[int], tell: int) -> list[str]:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        self._orders.close()
        for descriptor in (*streams, tell, self._woken, self._wake, *self._tell.values()):
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(order["environment"])
        time.tzset()
        os.chdir(order["cwd"])
        arguments: list[str] = order["arguments"]
        return arguments

    def _reap(self) -> None:
        while self._tell:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            code = str(os.waitstatus_to_exitcode(status)).encode()
            tell = self._tell.pop(pid)
            # Who ordered it may be gone.
            with suppress(BrokenPipeError):
                os.write(tell, code.ljust(_NUMBER_BYTES))
            os.close(tell)


def run() -> None:
    """Forks on the orders that come through the socket whose number is the argument."""
    for name in _PRELOADED:
        import_module(name)
    threads = list(Path("/proc/self/task").iterdir())
    assert len(threads) == 1, "a thread would be missing in what is forked"
    gc.freeze()
    arguments = _Forker(socket.socket(fileno=int(sys.argv[1]))).serve()
    if arguments is None:
        return
    sys.argv = ["workerqueue", *arguments]
    from workerqueue_server.cli.entry import main

    main()
