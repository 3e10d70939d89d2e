"""Arrays joined by hand are what psycopg's own dumpers and loaders make and read."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from hypothesis import given
from hypothesis import strategies as st
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.numeric import Int4, Int8

from workerqueue_server.store import binary

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


class _Context:
    """A context of its own, so that other tests see psycopg as it is."""

    def __init__(self) -> None:
        self.adapters = psycopg.adapters.__class__(psycopg.adapters)
        self.connection = None


CONTEXT: Any = _Context()
binary.register(CONTEXT)


def dumped(value: object, plain: list[Any]) -> list[Any]:
    """What a server would read; the type must be the one that psycopg picks for the list."""
    dumper = Transformer(CONTEXT).get_dumper(value, PyFormat.BINARY)
    data = dumper.dump(value)
    assert data is not None
    if any(item is not None for item in plain):
        own = Transformer(CONTEXT).get_dumper(plain, PyFormat.BINARY)
        # Short bytes and texts have several array types to choose from; ours is in that family.
        assert own.dump(plain) is not None
    loader = Transformer(CONTEXT).get_loader(dumper.oid, psycopg.pq.Format.BINARY)
    loaded: list[Any] = loader.load(data)
    return loaded


@given(st.lists(st.uuids(), max_size=30))
def test_uuids(ids: list[uuid.UUID]) -> None:
    assert dumped(binary.UuidArray([i.bytes for i in ids]), ids) == ids


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30))
def test_bigints(numbers: list[int]) -> None:
    raw = [n.to_bytes(8, "big", signed=True) for n in numbers]
    assert dumped(binary.RawBigintArray(raw), [Int8(n) for n in numbers]) == numbers


@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=30))
def test_integers(numbers: list[int]) -> None:
    assert dumped(binary.IntArray(numbers), [Int4(n) for n in numbers]) == numbers


@given(st.lists(st.none() | st.binary(max_size=40), max_size=30))
def test_bytes(items: list[bytes | None]) -> None:
    assert dumped(binary.ByteaArray(items), items) == items


@given(st.lists(st.none() | TEXTS, max_size=30))
def test_texts(items: list[str | None]) -> None:
    assert dumped(binary.TextArray(items), items) == items


@given(st.lists(st.uuids(), min_size=1, max_size=30))
def test_the_bytes_are_those_of_psycopgs_own_dumper(ids: list[uuid.UUID]) -> None:
    own = Transformer(CONTEXT).get_dumper(ids, PyFormat.BINARY)
    ours = Transformer(CONTEXT).get_dumper(binary.UuidArray([]), PyFormat.BINARY)
    assert ours.oid == own.oid
    assert ours.dump(binary.UuidArray([i.bytes for i in ids])) == own.dump(ids)


@given(st.datetimes(timezones=st.just(UTC)))
def test_times_are_loaded_as_microseconds(at: datetime) -> None:
    own = Transformer().get_dumper(at, PyFormat.BINARY)
    data = own.dump(at)
    assert data is not None
    loader = Transformer(CONTEXT).get_loader(own.oid, psycopg.pq.Format.BINARY)
    assert loader.load(data) == (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
