"""The program under test: started, listened to, frozen, ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_LINE_LIMIT = 1024 * 1024
_SHOWN_HEAD, _SHOWN_TAIL = 4, 6


class Failed(Exception):
    """The program does not do what a scenario demands; the message says what."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line that the program wrote."""

    event: str
    task_id: str
    attempt: int
    reason: str
    outcome: str


def read_event(line: bytes) -> Event | None:
    """The event in a line of output; None: the line is none."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("event"), str):
        return None
    attempt = value.get("attempt", 0)
    return Event(
        event=value["event"],
        task_id=str(value.get("task_id", "")),
        attempt=attempt if isinstance(attempt, int) else 0,
        reason=str(value.get("reason", "")),
        outcome=str(value.get("outcome", "")),
    )


class Program:
    """A running program, in a process group of its own."""

    def __init__(self, process: asyncio.subprocess.Process, errors: Path) -> None:
        """Use ``start``."""
        self.events: list[Event] = []
        self._process = process
        self._errors = errors
        self._news = asyncio.Condition()
        self._ended = False
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls, command: Sequence[str], environment: Mapping[str, str], errors: Path
    ) -> Program:
        """Starts it; its standard error goes to the file ``errors``. Raises Failed."""
        try:
            with errors.open("wb") as sink:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    env={**os.environ, **environment},
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=sink,
                    start_new_session=True,
                    limit=_LINE_LIMIT,
                )
        except OSError as error:
            raise Failed(f"cannot start {command[0]}: {error.strerror}") from error
        return cls(process, errors)

    async def _read(self) -> None:
        output = self._process.stdout
        assert output is not None
        with contextlib.suppress(ValueError):
            async for line in output:
                if (event := read_event(line)) is not None:
                    async with self._news:
                        self.events.append(event)
                        self._news.notify_all()
        async with self._news:
            self._ended = True
            self._news.notify_all()

    async def until(self, is_so: Callable[[], bool], what: str, limit: float) -> None:
        """Waits for events. Raises Failed after the limit, or when the program ends before."""
        try:
            async with asyncio.timeout(limit), self._news:
                while not is_so():
                    if self._ended:
                        raise Failed(f"the program ended before: {what}")
                    await self._news.wait()
        except TimeoutError:
            raise Failed(f"not within {limit:g} s: {what}") from None

    async def says(self, event: str, task_id: str = "", *, limit: float) -> Event:
        """The first such event."""

        def find() -> Event | None:
            return next(
                (e for e in self.events if e.event == event and task_id in ("", e.task_id)), None
            )

        about = f" of task {task_id}" if task_id else ""
        await self.until(lambda: find() is not None, f'the event "{event}"{about}', limit)
        found = find()
        assert found is not None
        return found

    def freeze(self) -> None:
        """Stops it in its tracks, with its children."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGCONT)

    def close_input(self) -> None:
        """Asks it to finish and exit."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def exit_code(self, limit: float) -> int:
        """Waits for its end. Raises Failed after the limit."""
        try:
            async with asyncio.timeout(limit):
                code = await self._process.wait()
                await self._reader
                return code
        except TimeoutError:
            raise Failed(f"the program did not exit within {limit:g} s") from None

    async def kill(self) -> None:
        """Ends it and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._reader.cancel()
        await asyncio.gather(self._reader, self._process.wait(), return_exceptions=True)

    def complaints(self) -> list[str]:
        """The first and last lines of its standard error."""
        lines = self._errors.read_text(errors="replace").splitlines()
        if len(lines) <= _SHOWN_HEAD + _SHOWN_TAIL:
            return lines
        return [*lines[:_SHOWN_HEAD], "...", *lines[-_SHOWN_TAIL:]]
