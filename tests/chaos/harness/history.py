"""The record of an episode: one file of JSON lines per process, on the clock that they all share.

Each line is written before the next thing happens, so a record is complete up to the moment in
which its process is killed. Times are CLOCK_MONOTONIC in nanoseconds, the same for every process of
the machine, and out of reach of the clock faults.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Event:
    """A line of a record.

    `event` is one of
    - enqueue: a producer is about to send a task for the first time (task, queue, key, key_limit,
      max_attempts)
    - acknowledged: the producer has the answer (task, outcome)
    - start: a worker received a lease (task, lease, attempt, max_attempts, queue, key)
    - answer: a worker knows what became of an ack, nack or heartbeat (lease, task, operation,
      asked: when it was first sent, outcome: ok or lost, repeated: an answer sent once more)
    - error: a client was told something that no retrying client may hear (call, code, text)
    - sample: the observer looked (over: limits found exceeded; finished: terminal tasks by id)
    - fault: a fault began, healed or was skipped (fault, phase)
    - process: a process started, was stopped or ended by itself (process, phase, code)
    """

    at: int
    by: str
    event: str
    data: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.data[name]


class Recorder:
    """Appends events to a process's own file."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._file = os.open(folder / f"{name}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, event: str, **data: Any) -> None:
        """Writes a line; the kernel has it when this returns."""
        line = {"at": time.monotonic_ns(), "event": event, **data}
        os.write(self._file, json.dumps(line, separators=(",", ":")).encode() + b"\n")


def read_history(folder: Path) -> list[Event]:
    """All processes' events in the order of time."""
    events = [event for path in sorted(folder.glob("*.jsonl")) for event in _read(path)]
    return sorted(events, key=lambda event: event.at)


def _read(path: Path) -> Iterator[Event]:
    for line in path.read_text().splitlines():
        data = json.loads(line)
        yield Event(data.pop("at"), path.stem, data.pop("event"), data)
