"""Every figure of the server: the one place for names, units, attributes and bounds.

The table in docs/observability.md is made from here. A name is part of the contract with dashboards
and alerts: a rename is a breaking change.
"""

from __future__ import annotations

from collections.abc import Sequence

from workerqueue_server.telemetry.figures import (
    About,
    Bounded,
    Counter,
    Distribution,
    Figure,
    Gauge,
)

FIGURES: list[Figure] = []

# Pairs of queue and kind that keep their names.
LANES = 200
# Queues whose depth is told by name: those with the most tasks.
QUEUES = 200
# Workers that are told by name: those that hold the most tasks.
WORKERS = 50

# What is not known: the lease was granted by another server and never presented to this one.
UNKNOWN = "unknown"

_SECONDS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    *(30.0, 60.0, 300.0, 1800.0, 3600.0),
)
_FLUSH_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_SIZES = (1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1_000.0, 2_000.0, 4_096.0, 10_000.0)

# The transactions of the hot path, as `batch` names them.
BATCHES = ("enqueue", "enqueue keyed", "grants", "acks", "nacks", "heartbeats", "held leases")

lane_names = Bounded(LANES)


def _counter(name: str, unit: str, description: str, *attributes: str) -> Counter:
    made = Counter(About(f"workerqueue.{name}", unit, description, attributes))
    FIGURES.append(made)
    return made


def _gauge(name: str, unit: str, description: str, *attributes: str) -> Gauge:
    made = Gauge(About(f"workerqueue.{name}", unit, description, attributes))
    FIGURES.append(made)
    return made


def _distribution(
    name: str, unit: str, bounds: Sequence[float], description: str, *attributes: str
) -> Distribution:
    made = Distribution(About(f"workerqueue.{name}", unit, description, attributes), bounds)
    FIGURES.append(made)
    return made


ENQUEUED = _counter(
    "tasks.enqueued",
    "{task}",
    "Tasks that producers sent and schedules made; outcome is created, existed, replaced, kept or "
    "refused. What was enqueued by SQL is not seen here.",
    *("queue", "kind", "outcome"),
)
LEASED = _counter("tasks.leased", "{task}", "Leases granted.", "queue", "kind")
ENDED = _counter(
    "attempts.ended",
    "{attempt}",
    "Leases that ended; outcome is succeeded, failed, released, snoozed, timed_out, lost or "
    "cancelled.",
    *("queue", "kind", "outcome"),
)
STALE = _counter(
    "answers.stale",
    "{answer}",
    "Acks, nacks and heartbeats refused because their lease was over (LEASE_LOST).",
    "operation",
)
WAIT = _distribution(
    "task.wait.duration",
    "s",
    _SECONDS,
    "From the moment a task could have run to its lease, by the database's clock. Up to 100 leases "
    "a second are looked at; under more load the others count like those.",
    *("queue", "kind"),
)
RUN = _distribution(
    "attempt.duration",
    "s",
    _SECONDS,
    "From a lease's grant to its end, whatever the outcome, for leases this server granted.",
    *("queue", "kind"),
)
DEPTH = _gauge(
    "queue.depth",
    "{task}",
    "Tasks by state in the whole database, from the exact statistics; finished ones while they are "
    "kept.",
    *("queue", "state"),
)
OLDEST = _gauge(
    "queue.oldest_available.age",
    "s",
    "How long the oldest available task could have run already; 0: none is available.",
    "queue",
)
FIGURES_AGE = _gauge(
    "queue.figures.age", "s", "How old the depths and ages are: they are read every 5 s."
)
BATCH_SIZE = _distribution(
    "batch.size", "{item}", _SIZES, "Items written by one transaction.", "batch"
)
BATCH_DURATION = _distribution(
    "batch.duration",
    "s",
    _FLUSH_SECONDS,
    "How long one transaction took, the way to the database and back included.",
    "batch",
)
BATCH_FAILED = _counter(
    "batch.failures", "{batch}", "Transactions that failed; their callers heard of it.", "batch"
)
BATCH_WAITING = _gauge(
    "batch.waiting", "{item}", "Items that wait for the next transaction.", "batch"
)
STREAMS = _gauge("streams", "{stream}", "Lease streams on this server.")
WINDOW = _gauge(
    "worker.window", "{task}", "How many tasks a worker's streams may hold now.", "worker"
)
HELD = _gauge("worker.held", "{task}", "How many leases a worker's streams hold.", "worker")
POOL = _gauge(
    "pool.connections",
    "{connection}",
    "Connections for reading beside the hot path; state is idle or used.",
    "state",
)
POOL_WAITING = _gauge("pool.waiting", "{request}", "Reads that wait for a connection.")
DATABASE = _gauge("database.up", "1", "1 while the database answers and takes writes, else 0.")
CALLS = _counter(
    "rpc.calls",
    "{call}",
    "Calls that ended, by method and status. A stream counts when it ends, CANCELLED if its caller "
    "left; a method that the server does not know is other.",
    *("method", "code"),
)
CALL_DURATION = _distribution(
    "rpc.call.duration",
    "s",
    _FLUSH_SECONDS,
    "From a unary call's arrival to its answer, for those that succeeded; waiting for the write is "
    "part of it.",
    "method",
)
LOOP_LAG = _distribution(
    "event_loop.lag",
    "s",
    _LAG_SECONDS,
    "How much later than asked the event loop woke; measured 4 times a second.",
)
DUTY_LAG = _gauge(
    "duty.lag",
    "s",
    "How long a recurring duty is behind its time; grows while it cannot be done.",
    "duty",
)
DUTY_FAILED = _counter("duty.failures", "{run}", "Runs of a duty that failed.", "duty")

for _operation in ("ack", "nack", "heartbeat"):
    STALE.expect(_operation)
for _batch in BATCHES:
    BATCH_FAILED.expect(_batch)
