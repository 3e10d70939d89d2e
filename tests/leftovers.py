"""Processes that tests started and did not end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

# Inherited by whatever a test starts, and by what that starts.
_MARK = "TESTS_STARTED_BY"
_PATIENCE_SECONDS = 30
_POLL_SECONDS = 0.2
# Commands that keep house in a process of their own after their end: Go does, for its counters.
_HOUSEKEEPERS = {"go"}


@contextmanager
def none_left() -> Iterator[None]:
    """Kills what was started in the block and still runs a while after its end, and fails then."""
    mark = f"{os.getpid()}-{psutil.Process().create_time()}"
    os.environ[_MARK] = mark
    try:
        yield
    finally:
        del os.environ[_MARK]
    deadline = time.monotonic() + _PATIENCE_SECONDS
    # One that has ended and that nobody reaped has no environment any more: it is not left.
    while (alive := _marked(mark)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    told = [_describe(process) for process in alive]
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    assert not told, "left behind by the tests, and killed now:\n" + "\n".join(told)


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.name() in _HOUSEKEEPERS:
                continue
            if process.environ().get(_MARK) == mark:
                found.append(process)
    return found


def _describe(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return f"{process.pid}: {' '.join(process.cmdline())}"
    return f"{process.pid}"
