"""The chaos harness waits for what the system needs, and not for what a slow machine does.

Both faults of it made an episode look as if a promise was broken, and none was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.chaos.harness import observer, stage, supervisor
from tests.chaos.harness.producer import RETRY
from tests.chaos.harness.stage import Scale, Stage, ticks

PATIENCE = 10.0


class Worker:
    """A worker process that only notes that it was killed."""

    killed = False

    def kill(self) -> None:
        self.killed = True


class Cluster:
    """A database that no test here reaches."""

    def dsn(self, name: str) -> str:
        return name


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def resting(tmp_path: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A stage without processes, on which a pause takes no time."""
    made = Stage(tmp_path, Scale(), 1)
    made.producers = []
    made.workers = [cast(Any, worker)]
    made.cluster = cast(Any, Cluster())

    async def nothing(*_: object) -> None:
        pass

    monkeypatch.setattr(made, "execute", nothing)
    monkeypatch.setattr(asyncio, "sleep", nothing)
    return made


def counts(monkeypatch: pytest.MonkeyPatch, numbers: Iterator[int]) -> None:
    """What looks at the database tell, one after the other."""

    async def live_tasks(dsn: str) -> int:
        return next(numbers)

    monkeypatch.setattr(observer, "live_tasks", live_tasks)


async def test_a_drain_is_given_up_after_looks_that_see_no_progress_and_ends_the_workers(
    resting: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Episode 976691: the truth was read while workers were still at it."""
    looks = 0

    def same() -> Iterator[int]:
        nonlocal looks
        while True:
            looks += 1
            yield 5

    counts(monkeypatch, same())
    assert await resting.drain(PATIENCE) is False
    assert looks * stage._WATCH_SECONDS >= PATIENCE  # noqa: SLF001
    assert worker.killed


async def test_a_drain_that_goes_on_is_waited_for_however_long_each_look_takes(
    resting: Stage, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Episode 976691: on a starved machine few looks took all the patience, counted in seconds."""
    loop = asyncio.get_running_loop()
    passed = 0.0
    monkeypatch.setattr(loop, "time", lambda real=loop.time: real() + passed)

    def fewer() -> Iterator[int]:
        nonlocal passed
        for left in range(50, -1, -1):
            # Some looks see nothing new, and each is as slow as all patience together.
            for _ in range(3):
                passed += 2 * PATIENCE
                yield left

    counts(monkeypatch, fewer())
    assert await resting.drain(PATIENCE) is True
    assert not worker.killed


def test_no_task_of_the_harness_waits_longer_for_its_next_attempt_than_a_drain_is_patient() -> None:
    """Episode 261768: a tick's task waited six minutes by its kind's backoff."""
    assert ticks().task.options.retry == RETRY
    longest = RETRY.max_backoff.ToTimedelta().total_seconds() * (1 + RETRY.jitter)
    assert longest < supervisor._STANDSTILL_SECONDS / 10  # noqa: SLF001
