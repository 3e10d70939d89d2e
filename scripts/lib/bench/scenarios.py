"""What is measured, by name."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace

from bench import plain_sql, pressure
from bench.load import Order, Report
from bench.stage import Stage, StageError, Usage

_READY_SECONDS = 60.0


@dataclass(frozen=True)
class Plan:
    """How much is done in one measurement."""

    tasks: int
    window: int
    in_flight: int | None = None


@dataclass(frozen=True)
class Sample:
    """One measurement: the value, the yardstick's, and what the value cost."""

    value: float
    plain: float
    # Per task: microseconds of CPU, and bytes of WAL.
    server_us: float
    postgres_us: float
    load_us: float
    wal_bytes: float
    # Latencies only: milliseconds by percentile.
    percentiles: dict[str, float]


@dataclass(frozen=True)
class Scenario:
    """Something to measure. `measure` is given a queue that was never used before."""

    name: str
    title: str
    unit: str
    plain_title: str
    measure: Callable[[Stage, Plan, str], Sample]
    # How many tasks one measurement is, where the number asked for would take too long.
    share: float = 1.0
    most: int | None = None

    def sized(self, plan: Plan) -> Plan:
        """The plan with this scenario's share of the tasks, in whole batches."""
        tasks = int(plan.tasks * self.share)
        if self.most is not None:
            return replace(plan, tasks=min(tasks, self.most))
        return replace(plan, tasks=max(tasks // plain_sql.BATCH, 1) * plain_sql.BATCH)


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
def _loads(orders: dict[str, Order]) -> Iterator[list[_LoadProcess]]:
    processes = [_LoadProcess(name, order) for name, order in orders.items()]
    try:
        for process in processes:
            process.wait_ready()
        yield processes
    finally:
        for process in processes:
            process.kill()


@dataclass(frozen=True)
class _Outcome:
    seconds: float
    reports: list[Report]
    usage: Usage


def _run(stage: Stage, orders: dict[str, Order]) -> _Outcome:
    """Runs the loads side by side, from the first one's start to the last one's end."""
    # The pool is left last: a load that waits for one that failed must be killed first.
    with ThreadPoolExecutor() as pool, _loads(orders) as processes:
        before = stage.usage()
        for process in processes:
            process.start()
        running = [pool.submit(process.result) for process in processes]
        for done in as_completed(running):
            done.result()
        reports = [done.result() for done in running]
        usage = stage.usage().since(before)
    seconds = max(r["ended"] for r in reports) - min(r["started"] for r in reports)
    return _Outcome(seconds, reports, usage)


def _sample(
    outcome: _Outcome,
    tasks: int,
    value: float,
    plain: float,
    percentiles: dict[str, float] | None = None,
) -> Sample:
    per_task = 1e6 / tasks
    return Sample(
        value=value,
        plain=plain,
        server_us=outcome.usage.server * per_task,
        postgres_us=outcome.usage.postgres * per_task,
        load_us=sum(r["cpu"] for r in outcome.reports) * per_task,
        wal_bytes=outcome.usage.wal / tasks,
        percentiles=percentiles or {},
    )


def _order(stage: Stage, plan: Plan, queue: str, in_flight: int) -> Order:
    return Order(
        target=stage.target,
        queue=queue,
        tasks=plan.tasks,
        window=plan.window,
        in_flight=plan.in_flight or in_flight,
        batch=1_000,
    )


def _rate(
    load: str, in_flight: int, plain: Callable[[str, int], float]
) -> Callable[[Stage, Plan, str], Sample]:
    def measure(stage: Stage, plan: Plan, queue: str) -> Sample:
        plain_sql.prepare(stage.dsn)
        yardstick = plain(stage.dsn, plan.tasks)
        stage.settle()
        outcome = _run(stage, {load: _order(stage, plan, queue, in_flight)})
        return _sample(outcome, plan.tasks, plan.tasks / outcome.seconds, yardstick)

    return measure


def _drain_rate(load: str) -> Callable[[Stage, Plan, str], Sample]:
    def measure(stage: Stage, plan: Plan, queue: str) -> Sample:
        plain_sql.prepare(stage.dsn)
        plain_sql.insert_batches(stage.dsn, plan.tasks)
        yardstick = plain_sql.drain_batches(stage.dsn, plan.tasks)
        _run(stage, {"batch": _order(stage, replace(plan, in_flight=None), queue, 4)})
        stage.settle()
        outcome = _run(stage, {load: _order(stage, plan, queue, 1)})
        return _sample(outcome, plan.tasks, plan.tasks / outcome.seconds, yardstick)

    return measure


def _drain_beside_scheduled(stage: Stage, plan: Plan, queue: str) -> Sample:
    """A drain beside a million scheduled tasks, and the same drain just before without them."""
    clean = _drain(stage, plan, f"{queue}-clean")
    with pressure.stock(stage, scheduled=pressure.STOCK):
        outcome = _drain(stage, plan, queue)
    return _sample(outcome, plan.tasks, plan.tasks / outcome.seconds, plan.tasks / clean.seconds)


def _drain(stage: Stage, plan: Plan, queue: str) -> _Outcome:
    _run(stage, {"batch": _order(stage, replace(plan, in_flight=None), queue, 4)})
    stage.settle()
    return _run(stage, {"drain": _order(stage, plan, queue, 1)})


def _operate(stage: Stage, plan: Plan, queue: str) -> Sample:
    """The slowest of the operator's reading calls beside a million scheduled and finished tasks."""
    with pressure.stock(stage):
        clean = pressure.operator_calls_ms(stage)
    with pressure.stock(stage, scheduled=pressure.STOCK, finished=pressure.STOCK):
        before = stage.usage()
        calls = pressure.operator_calls_ms(stage)
        usage = stage.usage().since(before)
    slowest = max(calls, key=lambda name: calls[name])
    return _sample(_Outcome(0, [], usage), plan.tasks, calls[slowest], clean[slowest], calls)


def _mix(stage: Stage, plan: Plan, queue: str) -> Sample:
    plain_sql.prepare(stage.dsn)
    yardstick = plain_sql.cycle_batches(stage.dsn, plan.tasks)
    stage.settle()
    order = _order(stage, plan, queue, 2)
    outcome = _run(stage, {"drain": order, "batch": order})
    return _sample(outcome, plan.tasks, plan.tasks / outcome.seconds, yardstick)


def _latency(stage: Stage, plan: Plan, queue: str) -> Sample:
    plain_sql.prepare(stage.dsn)
    yardstick = plain_sql.notify_latency_ms(stage.dsn, plan.tasks)
    stage.settle()
    order = _order(stage, plan, queue, 1)
    outcome = _run(stage, {"receive": order, "trickle": order})
    milliseconds = sorted(
        latency * 1000 for report in outcome.reports[:1] for latency in report["latencies"]
    )
    calls = [latency * 1000 for latency in outcome.reports[1]["latencies"]]
    cuts = statistics.quantiles(milliseconds, n=100, method="inclusive")
    percentiles = {
        "p50": cuts[49],
        "p90": cuts[89],
        "p99": cuts[98],
        "max": milliseconds[-1],
        "enqueue call p50": statistics.median(calls),
    }
    return _sample(outcome, plan.tasks, cuts[49], yardstick, percentiles)


_ALL = (
    Scenario(
        "enqueue",
        "Enqueue, one task a call, 64 calls in flight, raw stub",
        "tasks/s",
        "single inserts, 32 connections",
        _rate("enqueue", 64, plain_sql.insert_singles),
        share=0.2,
    ),
    Scenario(
        "enqueue-client",
        "enqueue() of one Python AsyncClient, 64 in flight",
        "tasks/s",
        "single inserts, 32 connections",
        _rate("enqueue-client", 64, plain_sql.insert_singles),
        share=0.2,
    ),
    Scenario(
        "batch",
        "EnqueueBatch, 1,000 tasks a call, 4 calls in flight, raw stub",
        "tasks/s",
        "inserts of 1,000",
        _rate("batch", 4, plain_sql.insert_batches),
    ),
    Scenario(
        "drain",
        "preloaded tasks, one raw-stub worker, one stream",
        "tasks/s",
        "lease and delete of 1,000",
        _drain_rate("drain"),
    ),
    Scenario(
        "drain-worker",
        "preloaded tasks, one Python Worker, async handlers",
        "tasks/s",
        "lease and delete of 1,000",
        _drain_rate("drain-worker"),
    ),
    Scenario(
        "mix",
        "EnqueueBatch and a raw-stub worker at once",
        "tasks/s",
        "insert, lease and delete of 1,000",
        _mix,
    ),
    Scenario(
        "drain-scheduled",
        "the drain beside 1,000,000 scheduled tasks",
        "tasks/s",
        "the same drain before",
        _drain_beside_scheduled,
    ),
    Scenario(
        "operate",
        "slowest of ListQueues, GetQueue, ListTasks beside 2,000,000 tasks, p50",
        "ms",
        "the same call before",
        _operate,
        most=300,
    ),
    Scenario(
        "latency",
        "idle: Enqueue call start to handler in another process, p50",
        "ms",
        "insert, NOTIFY, fetch in one process, p50",
        _latency,
        most=500,
    ),
)

SCENARIOS = {scenario.name: scenario for scenario in _ALL}
