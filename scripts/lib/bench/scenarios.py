"""What is measured, by name."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace

from bench import memory, plain_sql, pressure
from bench.load import Report
from bench.model import Measure, Measured, Plan, Scenario
from bench.running import held, order_for, preload, run
from bench.stage import Stage

_QUEUES = 500
_IDLE_STREAMS = 1_000
_BUSY_STREAMS = 50
_KEYS = 10_000


def _plain(measure: Callable[[str, int], float]) -> Measure:
    def yardstick(stage: Stage, plan: Plan, _queue: str) -> Measured:
        plain_sql.prepare(stage.dsn)
        value = Measured(measure(stage.dsn, plan.tasks))
        stage.settle()
        return value

    return yardstick


def _plain_drain(dsn: str, tasks: int) -> float:
    plain_sql.insert_batches(dsn, tasks)
    return plain_sql.drain_batches(dsn, tasks)


def _produce(load: str, in_flight: int) -> Measure:
    def measure(stage: Stage, plan: Plan, queue: str) -> Measured:
        order = order_for(stage, plan, queue, in_flight=in_flight)
        return run(stage, [(load, order)]).rate(plan.tasks)

    return measure


def _drain(load: str = "drain", *, queues: int = 1, streams: int = 1) -> Measure:
    def measure(stage: Stage, plan: Plan, queue: str) -> Measured:
        preload(stage, plan, queue, queues=queues)
        order = order_for(stage, plan, queue, queues=queues, streams=streams)
        return run(stage, [(load, order)]).rate(plan.tasks)

    return measure


def _drain_beside_idle_streams(stage: Stage, plan: Plan, queue: str) -> Measured:
    idle = order_for(stage, plan, f"{queue}-idle", streams=_IDLE_STREAMS)
    with held([("idle", idle)]):
        return _drain(streams=_BUSY_STREAMS)(stage, plan, queue)


def _drain_keys(stage: Stage, plan: Plan, queue: str) -> Measured:
    pressure.fill_with_keys(stage, queue, plan.tasks, _KEYS)
    return run(stage, [("drain", order_for(stage, plan, queue))]).rate(plan.tasks)


def _mix(stage: Stage, plan: Plan, queue: str) -> Measured:
    order = order_for(stage, plan, queue, in_flight=2)
    return run(stage, [("drain", order), ("batch", order)]).rate(plan.tasks)


def _double_mix(stage: Stage, plan: Plan, queue: str) -> Measured:
    """Two producers and two workers of four streams, so that every process has some."""
    half = replace(plan, tasks=plan.tasks // 2)
    orders = [
        order_for(stage, half, f"{queue}-{number}", in_flight=2, streams=4) for number in (1, 2)
    ]
    loads = [(load, order) for order in orders for load in ("drain", "batch")]
    return run(stage, loads).rate(plan.tasks)


def _operate(stage: Stage, _plan: Plan, _queue: str) -> Measured:
    calls = pressure.operator_calls_ms(stage)
    return Measured(max(calls.values()), details=calls)


def _latency(stage: Stage, plan: Plan, queue: str) -> Measured:
    order = order_for(stage, plan, queue)
    outcome = run(stage, [("receive", order), ("trickle", order)])
    return _latencies(outcome.reports[0], outcome.reports[1])


def _loaded_latency(stage: Stage, plan: Plan, queue: str) -> Measured:
    """Beside a producer and a worker that move half of what they can."""
    most = _mix(stage, Plan(30_000, plan.window), f"{queue}-most").value
    order = order_for(stage, plan, queue)
    # As long as the calls that are measured take, with some to spare.
    tasks = int(plan.tasks * 0.02 * most / 2) // 100 * 100
    busy = order_for(stage, plan, f"{queue}-busy", tasks=tasks, rate=most / 2)
    outcome = run(stage, [("receive", order), ("trickle", order), ("paced", busy), ("drain", busy)])
    measured = _latencies(outcome.reports[0], outcome.reports[1])
    return replace(measured, details={**measured.details, "load (tasks/s)": most / 2})


def _latencies(receiver: Report, producer: Report) -> Measured:
    milliseconds = sorted(latency * 1000 for latency in receiver["latencies"])
    cuts = statistics.quantiles(milliseconds, n=100, method="inclusive")
    details = {
        "p50": cuts[49],
        "p90": cuts[89],
        "p99": cuts[98],
        "max": milliseconds[-1],
        "enqueue call p50": statistics.median(producer["latencies"]) * 1000,
    }
    return Measured(cuts[49], details=details)


def _p99(measure: Measure) -> Measure:
    def by_p99(stage: Stage, plan: Plan, queue: str) -> Measured:
        measured = measure(stage, plan, queue)
        return replace(measured, value=measured.details["p99"])

    return by_p99


def _rate(name: str, title: str, beside: str, measure: Measure, plain: Measure) -> Scenario:
    return Scenario(name, "throughput", title, "tasks/s", beside, measure, plain)


_SINGLES = _plain(plain_sql.insert_singles)
_THROUGHPUT = (
    _rate(
        "drain",
        "preloaded tasks, one raw-stub worker, one stream",
        "SQL: lease and delete of 1,000",
        _drain(),
        _plain(_plain_drain),
    ),
    _rate(
        "drain-worker",
        "preloaded tasks, one Python Worker, async handlers",
        "SQL: lease and delete of 1,000",
        _drain("drain-worker"),
        _plain(_plain_drain),
    ),
    _rate(
        "batch",
        "EnqueueBatch, 1,000 tasks a call, 4 calls in flight, raw stub",
        "SQL: inserts of 1,000",
        _produce("batch", 4),
        _plain(plain_sql.insert_batches),
    ),
    replace(
        _rate(
            "enqueue",
            "Enqueue, one task a call, 64 calls in flight, raw stub",
            "SQL: single inserts, 32 connections",
            _produce("enqueue", 64),
            _SINGLES,
        ),
        share=0.1,
    ),
    replace(
        _rate(
            "enqueue-client",
            "enqueue() of one Python AsyncClient, 64 in flight",
            "SQL: single inserts, 32 connections",
            _produce("enqueue-client", 64),
            _SINGLES,
        ),
        share=0.1,
    ),
    _rate(
        "mix",
        "EnqueueBatch and a raw-stub worker at once",
        "SQL: insert, lease and delete of 1,000",
        _mix,
        _plain(plain_sql.cycle_batches),
    ),
)

_LATENCY = (
    Scenario(
        "latency",
        "latency",
        "idle: Enqueue call start to handler in another process, p50",
        "ms",
        "SQL: insert, NOTIFY, fetch in one process, p50",
        _latency,
        _plain(plain_sql.notify_latency_ms),
        most=500,
        less_is_better=True,
    ),
    Scenario(
        "latency-loaded",
        "latency",
        "the same p99, beside half of the load that the mix can move",
        "ms",
        "the same p99 when idle",
        _p99(_loaded_latency),
        clean=_p99(_latency),
        most=500,
        less_is_better=True,
    ),
)


def _flat(name: str, title: str, **more: object) -> Scenario:
    scenario = Scenario(f"flat-{name}", "flat", title, "tasks/s", "the same without", _drain())
    return replace(scenario, **more)  # type: ignore[arg-type]


_FLAT = (
    _flat("scheduled", "the drain, 1,000,000 tasks scheduled", pressure=pressure.scheduled),
    _flat("finished", "the drain, 1,000,000 tasks finished", pressure=pressure.finished),
    _flat("blocked", "the drain, 100,000 blocked behind one key", pressure=pressure.blocked),
    _flat("keys", "the drain, 10,000 keys with 10 tasks each", pressure=pressure.keys),
    _flat("paused", "the drain, 1,000,000 in a paused queue it asks for", pressure=pressure.paused),
    _flat(
        "queues",
        "the drain, its tasks spread over 500 queues",
        measure=_drain(queues=_QUEUES),
        clean=_drain(),
    ),
    _flat(
        "transaction",
        "the drain, a transaction with snapshot and xid open throughout",
        pressure=pressure.open_transaction,
    ),
    _flat(
        "readers",
        "the drain, 4 REPEATABLE READ readers that scan the hot tables",
        pressure=pressure.readers,
    ),
    _flat(
        "streams",
        "the drain by 50 streams, 1,000 other streams idle",
        measure=_drain_beside_idle_streams,
        clean=_drain(),
    ),
    _flat(
        "batch-finished",
        "EnqueueBatch, 1,000,000 tasks finished",
        measure=_produce("batch", 4),
        pressure=pressure.finished,
    ),
    _flat(
        "own-keys",
        "the drain of tasks with 10,000 keys of their own",
        measure=_drain_keys,
        clean=_drain(),
    ),
    Scenario(
        "flat-operate",
        "flat",
        "slowest of ListQueues, GetQueue, ListTasks beside 2,000,000 tasks, p50",
        "ms",
        "the same without",
        _operate,
        pressure=pressure.scheduled_and_finished,
        most=300,
        less_is_better=True,
    ),
)

_MEMORY = (
    Scenario(
        "memory-streams",
        "memory",
        "resident memory of the server with 1,000 streams",
        "MB",
        "before them",
        memory.with_streams,
        memory.at_rest,
        less_is_better=True,
    ),
    Scenario(
        "memory-speed",
        "memory",
        "largest resident memory at full speed (--minutes: for so long)",
        "MB",
        "before it",
        memory.at_speed,
        memory.at_rest,
        less_is_better=True,
    ),
)


def _scaled(processes: int) -> Scenario:
    return Scenario(
        f"scale-{processes}",
        "scale",
        f"two producers and two workers, {processes} server processes",
        "tasks/s",
        "one process",
        _double_mix,
        processes=processes,
    )


_SCALE = (
    _scaled(2),
    _scaled(4),
    Scenario(
        "writes",
        "scale",
        "bytes of WAL a task, enqueued and finished, with what else is written",
        "B",
        "SQL: insert, lease and delete of 1,000",
        memory.written_for_mix(_mix),
        memory.written_for_plain_sql,
        less_is_better=True,
    ),
)

SCENARIOS = {
    scenario.name: scenario for scenario in (*_THROUGHPUT, *_LATENCY, *_FLAT, *_MEMORY, *_SCALE)
}
GROUPS = sorted({scenario.group for scenario in SCENARIOS.values()})
