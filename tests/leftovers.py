"""Processes that tests started and did not end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

# Inherited by whatever a test starts, and by what that starts.
_MARK = "TESTS_STARTED_BY"
_PATIENCE_SECONDS = 10


@contextmanager
def none_left() -> Iterator[None]:
    """Kills what was started in the block and still runs a while after its end, and fails then."""
    mark = f"{os.getpid()}-{psutil.Process().create_time()}"
    os.environ[_MARK] = mark
    try:
        yield
    finally:
        del os.environ[_MARK]
    _, alive = psutil.wait_procs(_marked(mark), timeout=_PATIENCE_SECONDS)
    told = [_describe(process) for process in alive]
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    assert not told, "left behind by the tests, and killed now:\n" + "\n".join(told)


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(_MARK) == mark:
                found.append(process)
    return found


def _describe(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return f"{process.pid}: {' '.join(process.cmdline())}"
    return f"{process.pid}"
