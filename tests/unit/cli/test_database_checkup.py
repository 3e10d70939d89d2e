"""What doctor says about a database, fact by fact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from workerqueue_server.cli.findings import Finding
from workerqueue_server.cli.local.database_checkup import judge
from workerqueue_server.store.diagnosis import Diagnosis

SERVER: dict[str, Any] = {
    "version_num": 180004,
    "version": "18.4",
    "clock": 0.0,
    "in_recovery": False,
    "read_only": False,
    "fsync": True,
    "full_page_writes": True,
    "synchronous_commit": "on",
    "autovacuum": True,
    "max_connections": 100,
    "reserved_connections": 3,
    "connections": 10,
    "own_connections": 9,
    "sees_all_sessions": True,
    "database_bytes": 1_000_000,
}
TABLE = {
    "name": "tasks",
    "live_rows": 10,
    "dead_rows": 5,
    "seconds_since_vacuum": 60.0,
    "vacuum_off": False,
}
HEALTHY = Diagnosis(
    connect_seconds=0.01,
    round_trip_seconds=0.001,
    server=SERVER,
    clock_skew_seconds=0.01,
    holders=[],
    tables=[TABLE],
    missing_migrations={},
    unknown_migrations={},
    notified=True,
)


def found(check: str, diagnosis: Diagnosis) -> list[Finding]:
    """What is found of one check; every other check must be well."""
    findings = list(judge(diagnosis))
    assert all(f.level == "ok" for f in findings if f.check != check), findings
    return [finding for finding in findings if finding.check == check]


def test_a_healthy_database_gets_no_advice() -> None:
    findings = list(judge(HEALTHY))
    assert {finding.level for finding in findings} == {"ok"}
    assert not any(finding.advice for finding in findings)


@pytest.mark.parametrize(
    ("facts", "check", "level", "words"),
    [
        ({"version_num": 140010, "version": "14.10"}, "version", "problem", "14.10"),
        ({"in_recovery": True}, "writes", "problem", "a standby"),
        ({"read_only": True}, "writes", "problem", "read-only"),
        ({"fsync": False}, "durability", "problem", "fsync off"),
        ({"full_page_writes": False}, "durability", "problem", "full_page_writes off"),
        ({"synchronous_commit": "off"}, "durability", "warning", "synchronous_commit is off"),
        ({"connections": 90}, "connections", "warning", "90 of 97"),
        ({"autovacuum": False}, "autovacuum", "problem", "off"),
        ({"sees_all_sessions": False}, "transactions", "note", "own sessions"),
    ],
)
def test_a_fact_about_the_server_is_judged(
    facts: dict[str, Any], check: str, level: str, words: str
) -> None:
    (finding,) = found(check, replace(HEALTHY, server=SERVER | facts))
    assert finding.level == level
    assert words in finding.found
    assert finding.advice


@pytest.mark.parametrize(
    ("changes", "check", "level", "words"),
    [
        ({"round_trip_seconds": 0.05}, "database", "warning", "answers in 50ms"),
        ({"clock_skew_seconds": 90.0}, "clock", "warning", "1m30s ahead of"),
        ({"clock_skew_seconds": -90.0}, "clock", "warning", "1m30s behind"),
        ({"notified": False}, "notifications", "warning", "do not arrive"),
        ({"missing_migrations": {7: "keys"}}, "schema", "problem", "lacks 0007 keys"),
        ({"tables": []}, "schema", "problem", "not there"),
        (
            {"tables": [TABLE | {"dead_rows": 500_000}]},
            "autovacuum",
            "warning",
            "workerqueue.tasks has 500,000 dead rows",
        ),
        ({"tables": [TABLE | {"vacuum_off": True}]}, "autovacuum", "problem", "workerqueue.tasks"),
        (
            {
                "holders": [
                    {
                        "kind": "transaction",
                        "owner": "reports pid 7",
                        "state": "idle in transaction",
                        "age_seconds": 7200.0,
                    }
                ]
            },
            "transactions",
            "warning",
            "transaction of reports pid 7 is idle in transaction, for 2h",
        ),
    ],
)
def test_a_finding_comes_with_advice(
    changes: dict[str, Any], check: str, level: str, words: str
) -> None:
    (finding,) = found(check, replace(HEALTHY, **changes))
    assert finding.level == level
    assert words in finding.found
    assert finding.advice


def test_a_newer_schema_is_no_problem() -> None:
    (finding,) = found("schema", replace(HEALTHY, unknown_migrations={99: "later"}))
    assert finding.level == "note"
    assert "0099 later" in finding.found
