"""Turns between the processes that tests run in."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def one_at_a_time(name: str, folder: str | None = None) -> Iterator[None]:
    """Keeps out whoever does the same in another process, until the block ends.

    On the whole machine, or among those who share the folder.
    """
    path = Path(folder or tempfile.gettempdir()) / f"workerqueue-tests-{os.getuid()}-{name}.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
