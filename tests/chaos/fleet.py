"""The test's side of worker processes: start, kill and freeze them, and read what they did."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.chaos.worker import Options

_STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Event:
    """A line of a worker's record."""

    worker: str
    event: str
    at: int
    task: str
    attempt: int
    key: str
    queue: str


@dataclass(frozen=True)
class Run:
    """A time in which a worker worked on a task."""

    task: str
    key: str
    queue: str
    start: int
    end: int


class WorkerProcess:
    """One worker process."""

    def __init__(
        self,
        folder: Path,
        name: str,
        addresses: Sequence[str],
        queues: Sequence[str],
        *,
        window: int = 10,
        work_seconds: tuple[float, float] = (0.001, 0.01),
        lease_seconds: float = 3.0,
        ignores_cancellations: bool = False,
    ) -> None:
        self.name = name
        self._record = folder / f"{name}.record"
        self._record.touch()
        self._log = folder / f"{name}.log"
        options: Options = {
            "window": window,
            "work_seconds": work_seconds,
            "lease_seconds": lease_seconds,
            "ignores_cancellations": ignores_cancellations,
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.chaos.worker", str(self._record)),
                    *(",".join(addresses), name, ",".join(queues), json.dumps(options)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.killed_at: int | None = None

    def kill(self) -> None:
        """Kills the process (SIGKILL)."""
        self._process.kill()
        self._process.wait(_STOP_SECONDS)
        self.killed_at = time.monotonic_ns()

    def freeze(self) -> None:
        """Stops the process where it is (SIGSTOP)."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Ends `freeze`."""
        self._process.send_signal(signal.SIGCONT)

    def events(self, event: str | None = None) -> list[Event]:
        """What it wrote down, all or of one sort."""
        lines = self._record.read_text().splitlines()
        found = [Event(worker=self.name, **json.loads(line)) for line in lines]
        return [e for e in found if event is None or e.event == event]

    def runs(self) -> list[Run]:
        """When it worked on what. A run that a kill cut short ended with the kill."""
        begun: dict[tuple[str, int], Event] = {}
        runs: list[Run] = []
        for event in self.events():
            if event.event == "start":
                begun[event.task, event.attempt] = event
            elif event.event == "end":
                start = begun.pop((event.task, event.attempt))
                runs.append(Run(event.task, event.key, event.queue, start.at, event.at))
        cut = self.killed_at or time.monotonic_ns()
        runs += [Run(e.task, e.key, e.queue, e.at, cut) for e in begun.values()]
        return runs

    def log(self) -> str:
        """What it printed: tracebacks, if anything."""
        return self._log.read_text()


class Fleet:
    """Worker processes that end with the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.workers: list[WorkerProcess] = []

    def start(
        self,
        addresses: Sequence[str],
        queues: Sequence[str],
        *,
        count: int = 1,
        window: int = 10,
        work_seconds: tuple[float, float] = (0.001, 0.01),
        lease_seconds: float = 3.0,
        ignores_cancellations: bool = False,
    ) -> list[WorkerProcess]:
        """Starts so many workers."""
        made = [
            WorkerProcess(
                self._folder,
                f"worker-{len(self.workers) + n}",
                addresses,
                queues,
                window=window,
                work_seconds=work_seconds,
                lease_seconds=lease_seconds,
                ignores_cancellations=ignores_cancellations,
            )
            for n in range(count)
        ]
        self.workers += made
        return made

    def events(self, event: str) -> list[Event]:
        """All workers' events of one sort."""
        return [e for worker in self.workers for e in worker.events(event)]

    def runs(self) -> list[Run]:
        """All workers' runs."""
        return [run for worker in self.workers for run in worker.runs()]

    def finished(self) -> Counter[str]:
        """How often each task's ack was confirmed to a worker."""
        return Counter(e.task for e in self.events("acked"))

    def most_at_once(self, queue: str) -> int:
        """How many tasks of the queue workers ran at one moment."""
        return _overlap([run for run in self.runs() if run.queue == queue])

    def most_at_once_by_key(self) -> dict[str, int]:
        """How many tasks of each key ran at one moment."""
        by_key: dict[str, list[Run]] = defaultdict(list)
        for run in self.runs():
            by_key[run.key].append(run)
        return {key: _overlap(runs) for key, runs in by_key.items() if key}

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for worker in self.workers:
            if worker.killed_at is None:
                worker.kill()


def _overlap(runs: Sequence[Run]) -> int:
    steps = sorted([(run.start, 1) for run in runs] + [(run.end, -1) for run in runs])
    most = running = 0
    for _, step in steps:
        running += step
        most = max(most, running)
    return most
