"""Keys made from payloads in Postgres are those made in the server, however the JSON is spelled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from tests.descriptors import everything
from tests.examples import examples
from tests.payloads import everything_args, fill, spellings
from tests.postgres import Database, PostgresCluster
from workerqueue_server.queue import canonical
from workerqueue_server.queue.catalog import Catalog, Kind

CATALOG = Catalog.load({"everything.binpb": everything()})
EVERYTHING = CATALOG.kinds["everything"]

PATHS = [
    "plain_text", "plainText", "whole", "real", "data", "color", "inner", "inner.label",
    "inner.count", "inner.children", "words", "inners", "counts", "by_number", "maybe_text",
    "maybeWhole", "moment", "span", "tree", "anything", "wrapped_number", "mask", "chosen_truth",
    "other-name", "renamed",
]  # fmt: skip

pytestmark = pytest.mark.all_postgres


@pytest.fixture(scope="module")
def connection(postgres: PostgresCluster) -> Iterator[psycopg.Connection[Any]]:
    """A database with the functions, and no server."""
    database: Database = postgres.create_migrated_database()
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        yield connection
    postgres.drop_database(database)


def in_sql(connection: psycopg.Connection[Any], function: str, *arguments: object) -> Any:
    placeholders = ", ".join(["%s"] * len(arguments))
    row = connection.execute(
        f"select workerqueue.{function}({placeholders})",
        arguments,
    ).fetchone()
    assert row is not None
    return row[0]


def declared(kind: Kind) -> Jsonb:
    return Jsonb(kind.declaration())


@given(args=everything_args, data=st.data())
@settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
def test_one_text_for_equal_payloads(
    connection: psycopg.Connection[Any], args: dict[str, Any], data: st.DataObject
) -> None:
    message = fill(EVERYTHING.message_class(), args)
    spelled = data.draw(spellings(message))
    # What the server would make of the same JSON: the spelling must not change the payload.
    parsed = CATALOG.parse_json(EVERYTHING, spelled, "args")
    expected = canonical.message(message)
    assert canonical.message(parsed) == expected
    got = in_sql(
        connection,
        "canonical_message",
        declared(EVERYTHING),
        EVERYTHING.type_name,
        Jsonb(spelled),
    )
    assert got == expected


@given(args=everything_args, data=st.data(), paths=st.lists(st.sampled_from(PATHS), min_size=1))
@settings(max_examples=examples(100), deadline=None, suppress_health_check=list(HealthCheck))
def test_one_text_for_equal_fields(
    connection: psycopg.Connection[Any],
    args: dict[str, Any],
    data: st.DataObject,
    paths: list[str],
) -> None:
    message = fill(EVERYTHING.message_class(), args)
    spelled = data.draw(spellings(message))
    got = in_sql(connection, "canonical_selection", declared(EVERYTHING), Jsonb(spelled), paths)
    assert got == canonical.selected(message, paths)


@given(args=everything_args, data=st.data())
@settings(max_examples=examples(100), deadline=None, suppress_health_check=list(HealthCheck))
def test_one_key_from_a_template(
    connection: psycopg.Connection[Any], args: dict[str, Any], data: st.DataObject
) -> None:
    message = fill(EVERYTHING.message_class(), args)
    spelled = data.draw(spellings(message))
    for template in (EVERYTHING.concurrency_key, EVERYTHING.job_key):
        assert template is not None
        got = in_sql(connection, "render_key", Jsonb(template.pieces), Jsonb(spelled))
        assert got == template.render(message)


@given(one=everything_args, other=everything_args)
def test_different_payloads_differ(one: dict[str, Any], other: dict[str, Any]) -> None:
    first = fill(EVERYTHING.message_class(), one)
    second = fill(EVERYTHING.message_class(), other)
    same = first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )
    # Zeros of either sign are one number, and NaN is equal to itself.
    assert (canonical.message(first) == canonical.message(second)) or not same


def test_neighbouring_texts_cannot_be_confused() -> None:
    def words(*values: str) -> str:
        return canonical.message(EVERYTHING.message_class(words=values))

    assert len({words("ab", "c"), words("a", "bc"), words("abc"), words("s1:a")}) == 4


def test_paths_that_lead_nowhere_are_refused(connection: psycopg.Connection[Any]) -> None:
    for path in ("nothing", "inner.nothing", "words.label", "tree.x", "plain_text.x", ""):
        with pytest.raises(ValueError, match="has no field"):
            canonical.resolve(path, EVERYTHING.descriptor)
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="has no field"):
            in_sql(connection, "canonical_selection", declared(EVERYTHING), Jsonb({}), [path])
