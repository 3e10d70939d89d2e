"""Threads for sync handlers."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class HandlerThreads:
    """Up to ``size`` daemon threads that run jobs, started as they are needed.

    Not a ThreadPoolExecutor: its threads are joined when the interpreter exits, so one handler that
    never returns would keep a worker alive that was told to stop.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0
        self._unfinished = 0

    def submit(self, job: Callable[[], None]) -> None:
        """Runs ``job`` in one of the threads. It must not raise."""
        with self._lock:
            self._unfinished += 1
            start = self._unfinished > self._started and self._started < self._size
            if start:
                self._started += 1
        self._jobs.put(job)
        if start:
            threading.Thread(target=self._work, name="workerqueue-handler", daemon=True).start()

    def close(self) -> None:
        """Ends each thread once its job is done."""
        with self._lock:
            started, self._size = self._started, 0
        for _ in range(started):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            finally:
                with self._lock:
                    self._unfinished -= 1
