"""Running loads, each in a process of its own, and what they used."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from bench.load import Order, Report
from bench.model import BATCH, Cost, Measured, Plan
from bench.stage import Stage, StageError, Usage

# The queue of what is present beside the measured work. Paused; measured workers ask for it too.
STOCK_QUEUE = "stock"

Loads = Sequence[tuple[str, Order]]


class _LoadProcess:
    """A load in a process of its own, connected and waiting for its start."""

    def __init__(self, name: str, order: Order) -> None:
        self._name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.load", name, json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_ready(self) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise StageError(f"the load {self._name} did not start")

    def start(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def result(self) -> Report:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer or self._process.wait():
            raise StageError(f"the load {self._name} failed")
        report: Report = json.loads(answer)
        return report

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def _connected(loads: Loads) -> Iterator[list[_LoadProcess]]:
    processes = [_LoadProcess(name, order) for name, order in loads]
    try:
        for process in processes:
            process.wait_ready()
        yield processes
    finally:
        for process in processes:
            process.kill()


@contextlib.contextmanager
def held(loads: Loads) -> Iterator[None]:
    """The loads connected, and started, for the length of a block."""
    with _connected(loads) as processes:
        for process in processes:
            process.start()
        yield


@dataclass(frozen=True)
class Outcome:
    """What the loads did, from the first one's start to the last one's end."""

    seconds: float
    reports: list[Report]
    usage: Usage

    def cost(self, tasks: int) -> Cost:
        """What it used, per task."""
        per_task = 1e6 / tasks
        return Cost(
            server_us=sum(self.usage.server) * per_task,
            server_shares=[used / self.seconds for used in self.usage.server],
            postgres_us=self.usage.postgres * per_task,
            load_us=sum(report["cpu"] for report in self.reports) * per_task,
            wal_bytes=self.usage.wal / tasks,
        )

    def rate(self, tasks: int) -> Measured:
        """So many tasks a second."""
        return Measured(tasks / self.seconds, self.cost(tasks))


def run(stage: Stage, loads: Loads, during: Callable[[], None] = lambda: None) -> Outcome:
    """Runs the loads side by side; ``during`` is called once they are started."""
    # The pool is left last: a load that waits for one that failed must be killed first.
    with ThreadPoolExecutor() as pool, _connected(loads) as processes:
        before = stage.usage()
        for process in processes:
            process.start()
        running = [pool.submit(process.result) for process in processes]
        during()
        for done in as_completed(running):
            done.result()
        reports = [done.result() for done in running]
        usage = stage.usage().since(before)
    seconds = max(r["ended"] for r in reports) - min(r["started"] for r in reports)
    return Outcome(seconds, reports, usage)


def order_for(
    stage: Stage,
    plan: Plan,
    queue: str,
    *,
    tasks: int | None = None,
    in_flight: int | None = None,
    queues: int = 1,
    streams: int = 1,
    rate: float = 0.0,
) -> Order:
    """What a load is told: on the one queue, or spread over several that are named after it."""
    spread = [queue] if queues == 1 else [f"{queue}-{number}" for number in range(queues)]
    return Order(
        target=stage.target,
        queues=spread,
        beside=[STOCK_QUEUE],
        tasks=plan.tasks if tasks is None else tasks,
        window=max(plan.window // streams, 1),
        in_flight=plan.in_flight or in_flight or 1,
        batch=BATCH,
        streams=streams,
        rate=rate,
    )


def preload(stage: Stage, plan: Plan, queue: str, *, queues: int = 1) -> None:
    """Stores the tasks, and writes out what that left to write."""
    order = order_for(stage, Plan(plan.tasks, plan.window), queue, in_flight=4, queues=queues)
    run(stage, [("batch", order)])
    stage.settle()
