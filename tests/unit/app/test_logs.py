"""Log lines: fields of their own, and exceptions without what users sent."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator

import psycopg
import pytest

from tests.postgres import Database
from workerqueue_server.app.logs import configure_logs
from workerqueue_server.store.errors import StatementFailed, translate

CANARY = "can" + "ary"

log = logging.getLogger("workerqueue_server.test")


@pytest.fixture(params=["json", "console"])
def lines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What goes to standard error, as a server configures it."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers.clear()
    configure_logs("debug", request.param)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)


def test_fields_are_told(lines: io.StringIO) -> None:
    log.debug("task %s", "leased", extra={"fields": {"task_id": "t1", "attempt": 2}})
    (line,) = lines.getvalue().splitlines()
    if line.startswith("{"):
        told = json.loads(line)
        assert (told["message"], told["task_id"], told["attempt"]) == ("task leased", "t1", 2)
    else:
        assert line.endswith("workerqueue_server.test: task leased task_id=t1 attempt=2")


def test_an_exception_tells_where_it_happened_and_no_values(lines: io.StringIO) -> None:
    try:
        try:
            int(CANARY)
        except ValueError as error:
            raise StatementFailed("22P02: invalid input") from error
    except StatementFailed:
        log.exception("a batch failed")
    told = lines.getvalue()
    assert CANARY not in told
    assert "StatementFailed: 22P02: invalid input" in told
    assert "builtins.ValueError" in told
    assert "test_logs.py" in told


def test_what_postgres_quotes_is_left_out(database: Database) -> None:
    refused = (
        "select 'payload \"canary\"'::uuid",
        "select '{\"a\": canary}'::jsonb",
        "create temp table t (x text primary key); insert into t values ('canary'), ('canary')",
    )
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        for statement in refused:
            with pytest.raises(psycopg.Error) as caught:
                connection.execute(statement)
            assert CANARY in str(caught.value)
            assert CANARY not in str(translate(caught.value))
