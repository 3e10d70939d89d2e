"""What the facts about a database mean for the queue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from workerqueue_server.cli.findings import Finding
from workerqueue_server.cli.views import times
from workerqueue_server.store.migrator import OLDEST_POSTGRES

if TYPE_CHECKING:
    from workerqueue_server.store.diagnosis import Diagnosis, Record

_SLOW_SECONDS = 0.02
_SKEW_SECONDS = 1.0
_FREE_CONNECTIONS = 20
_DEAD_ROWS = 100_000


def judge(diagnosis: Diagnosis) -> Iterator[Finding]:
    """Every check, good or bad."""
    server = diagnosis.server
    yield _reach(diagnosis)
    yield _version(server)
    yield from _schema(diagnosis)
    yield _writable(server)
    yield _clock(diagnosis)
    yield _durability(server)
    yield _connections(server)
    yield _notifications(diagnosis)
    yield _vacuum(diagnosis)
    yield from _holders(diagnosis)


def _reach(diagnosis: Diagnosis) -> Finding:
    took = diagnosis.round_trip_seconds
    told = f"connected in {times.span(diagnosis.connect_seconds)}, answers in {times.span(took)}"
    if took > _SLOW_SECONDS:
        return Finding(
            "warning",
            "database",
            told,
            "every batch waits for this way; run the server close to its database",
        )
    return Finding("ok", "database", told)


def _version(server: Record) -> Finding:
    major = server["version_num"] // 10_000
    if major < OLDEST_POSTGRES:
        return Finding(
            "problem",
            "version",
            f"PostgreSQL {server['version']}",
            f"version {OLDEST_POSTGRES} or newer is needed",
        )
    return Finding("ok", "version", f"PostgreSQL {server['version']}")


def _schema(diagnosis: Diagnosis) -> Iterator[Finding]:
    missing = [f"{version:04} {name}" for version, name in diagnosis.missing_migrations.items()]
    unknown = [f"{version:04} {name}" for version, name in diagnosis.unknown_migrations.items()]
    if not diagnosis.tables:
        yield Finding(
            "problem", "schema", "not there", "`workerqueue migrate` or the first server makes it"
        )
    elif missing:
        yield Finding(
            "problem", "schema", f"lacks {', '.join(missing)}", "`workerqueue migrate` applies them"
        )
    elif unknown:
        yield Finding(
            "note",
            "schema",
            f"is of a newer release than this command: {', '.join(unknown)}",
        )
    else:
        yield Finding("ok", "schema", "up to date")


def _writable(server: Record) -> Finding:
    if server["in_recovery"] or server["read_only"]:
        what = "a standby" if server["in_recovery"] else "read-only"
        return Finding(
            "problem", "writes", f"the database is {what}", "point the server at the primary"
        )
    return Finding("ok", "writes", "accepted")


def _clock(diagnosis: Diagnosis) -> Finding:
    skew = diagnosis.clock_skew_seconds
    if abs(skew) < _SKEW_SECONDS:
        return Finding("ok", "clock", "the database's and this machine's agree")
    return Finding(
        "warning",
        "clock",
        f"the database's is {times.span(abs(skew))} {'ahead of' if skew > 0 else 'behind'} this "
        "machine's",
        "the queue goes by the database's clock alone; run_at and expire_at that are computed here "
        "are off by as much, so let both follow NTP",
    )


def _durability(server: Record) -> Finding:
    off = [name for name in ("fsync", "full_page_writes") if not server[name]]
    if off:
        return Finding(
            "problem",
            "durability",
            f"{' and '.join(off)} off: a crash of the machine may lose or corrupt everything",
            "turn it on; acknowledged tasks are promised to survive any crash",
        )
    if server["synchronous_commit"] == "off":
        return Finding(
            "warning",
            "durability",
            "synchronous_commit is off: a crash may lose what was acknowledged shortly before",
            "leave it on: with batches it costs next to nothing",
        )
    return Finding(
        "ok", "durability", f"fsync on, synchronous_commit {server['synchronous_commit']}"
    )


def _connections(server: Record) -> Finding:
    usable = server["max_connections"] - server["reserved_connections"]
    told = (
        f"{server['connections']} of {usable} in use, {server['own_connections']} by workerqueue "
        "in this database"
    )
    if usable - server["connections"] < _FREE_CONNECTIONS:
        return Finding(
            "warning",
            "connections",
            told,
            "raise max_connections, or put a pooler before the other applications",
        )
    return Finding("ok", "connections", told)


def _notifications(diagnosis: Diagnosis) -> Finding:
    if diagnosis.notified:
        return Finding("ok", "notifications", "arrive")
    return Finding(
        "warning",
        "notifications",
        "do not arrive: a pooler in transaction mode stands in between",
        "name a direct connection with --listen-dsn (WORKERQUEUE_LISTEN_DSN); until then servers "
        "hear of each other's tasks about once a second",
    )


def _vacuum(diagnosis: Diagnosis) -> Finding:
    if not diagnosis.server["autovacuum"]:
        return Finding(
            "problem", "autovacuum", "off", "turn it on: dead rows slow every lease after a while"
        )
    for table in diagnosis.tables:
        if table["vacuum_off"]:
            return Finding(
                "problem",
                "autovacuum",
                f"turned off for workerqueue.{table['name']}",
                f"alter table workerqueue.{table['name']} reset (autovacuum_enabled)",
            )
        if (table["dead_rows"] or 0) > max(_DEAD_ROWS, 2 * (table["live_rows"] or 0)):
            return Finding(
                "warning",
                "autovacuum",
                f"workerqueue.{table['name']} has {table['dead_rows']:,} dead rows",
                "something keeps vacuum from removing them: see transactions",
            )
    return Finding("ok", "autovacuum", "on, the hot tables are clean")


def _holders(diagnosis: Diagnosis) -> Iterator[Finding]:
    for holder in diagnosis.holders:
        age = "" if holder["age_seconds"] is None else f", for {times.span(holder['age_seconds'])}"
        yield Finding(
            "warning",
            "transactions",
            f"{holder['kind']} of {holder['owner']} is {holder['state']}{age}",
            "it keeps vacuum from removing dead rows: finish or end it, and consider "
            "idle_in_transaction_session_timeout",
        )
    if not diagnosis.server["sees_all_sessions"]:
        yield Finding(
            "note",
            "transactions",
            "only this role's own sessions could be looked at",
            "grant pg_read_all_stats to it to see the others'",
        )
    elif not diagnosis.holders:
        yield Finding("ok", "transactions", "none is open for long")
