"""Runs `workerqueue` as its users do: a process, its output, its exit code.

Commands that a test waits for are forked from a process that has imported them; those on a terminal
or with streams to talk through, and all in tests/packaging, start the installed program.
"""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any

from tests.toolkit import within
from tests.warm import WARM_STARTS

PROGRAM = str(Path(sys.executable).parent / "workerqueue")
_SECONDS = 120.0
# Parents of PostgreSQL, of servers and of workers begin by themselves.
_COLD = (("serve",), ("dev",), ("conformance",))


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The one JSON document it printed."""
        return json.loads(self.out)

    def json_lines(self) -> list[Any]:
        """The JSON documents it printed, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    def rows(self) -> list[list[str]]:
        """The cells of the table it printed, without the headings."""
        return [line.split() for line in self.out.splitlines()[1:]]


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's environment without what it says about servers, and plain output."""
    kept = {name: v for name, v in os.environ.items() if not name.startswith("WORKERQUEUE_")}
    return kept | {"TZ": "UTC", "COLUMNS": "200"} | variables


class Cli:
    """The command line against one server."""

    def __init__(self, address: str, **variables: str) -> None:
        self.environment = clean_environment(WORKERQUEUE_ADDRESS=address, **variables)

    async def __call__(
        self,
        *arguments: str,
        code: int = 0,
        stdin: str = "",
        cwd: Path | None = None,
        **variables: str,
    ) -> Ended:
        """Runs a command that must end with this exit code."""
        if sys.platform == "linux" and arguments[:1] not in _COLD:
            ended = await asyncio.to_thread(self._run, arguments, stdin, cwd, variables)
        else:
            process = await self.start(*arguments, cwd=cwd, **variables)
            out, err = await within(process.communicate(stdin.encode()), _SECONDS)
            ended = Ended(process.returncode or 0, out.decode(), err.decode())
        assert ended.code == code, f"{arguments} ended with {ended}"
        assert "Traceback" not in ended.err, ended.err
        return ended

    def _run(
        self, arguments: Sequence[str], stdin: str, cwd: Path | None, variables: Mapping[str, str]
    ) -> Ended:
        """Runs a command in a forked process (tests/warm.py)."""
        with TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
            given.write(stdin.encode())
            given.seek(0)
            process = WARM_STARTS.start(
                arguments,
                environment={**self.environment, **variables},
                cwd=cwd,
                stdin=given,
                stdout=out,
                stderr=err,
            )
            try:
                code = process.wait(_SECONDS)
            finally:
                process.kill()
            out.seek(0)
            err.seek(0)
            return Ended(code, out.read().decode(), err.read().decode())

    async def start(
        self, *arguments: str, cwd: Path | None = None, **variables: str
    ) -> asyncio.subprocess.Process:
        """Starts a command without waiting for its end."""
        return await asyncio.create_subprocess_exec(
            PROGRAM,
            *arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment | variables,
            cwd=cwd,
        )


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, cli: Cli, *arguments: str) -> None:
        self._master, terminal = pty.openpty()
        self._process = subprocess.Popen(
            [PROGRAM, *arguments],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env=cli.environment | {"TERM": "xterm", "LINES": "40"},
            start_new_session=True,
        )
        os.close(terminal)
        self.seen = ""

    async def __aenter__(self) -> Terminal:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._master)

    async def until(self, text: str) -> None:
        """Waits until the text was shown."""
        while text not in self.seen:
            read = await within(asyncio.to_thread(self._read), _SECONDS)
            assert read, f"ended before it showed {text!r}: {self.seen}"
            self.seen += read

    def type(self, text: str) -> None:
        """Types."""
        os.write(self._master, text.encode())

    def interrupt(self) -> None:
        """Presses Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    async def end(self) -> int:
        """Reads on until the command ends; its exit code."""
        while read := await within(asyncio.to_thread(self._read), _SECONDS):
            self.seen += read
        code: int = await within(asyncio.to_thread(self._process.wait), _SECONDS)
        return code

    def _read(self) -> str:
        try:
            return os.read(self._master, 65536).decode(errors="replace")
        except OSError:
            # The terminal is gone with the last process that had it.
            return ""
