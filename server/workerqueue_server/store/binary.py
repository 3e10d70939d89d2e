"""Arrays in Postgres' binary format, made by joining bytes.

The general list dumper asks for a dumper per element. A batch passes thousands of elements of one
known type, for which a join is an order of magnitude cheaper.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct, pack

from psycopg.abc import AdaptContext
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format

_INT32 = Struct(">i")
_NULL = _INT32.pack(-1)
# Seconds from the Unix epoch to Postgres' (2000-01-01), in microseconds.
_EPOCH_SHIFT = 946_684_800_000_000


@dataclass(slots=True, frozen=True)
class UuidArray:
    """``uuid[]`` from 16-byte strings."""

    items: Sequence[bytes]


@dataclass(slots=True, frozen=True)
class RawBigintArray:
    """``bigint[]`` from 8-byte big-endian strings."""

    items: Sequence[bytes]


@dataclass(slots=True, frozen=True)
class IntArray:
    """``integer[]``."""

    items: Sequence[int]


@dataclass(slots=True, frozen=True)
class ByteaArray:
    """``bytea[]``; None is null."""

    items: Sequence[bytes | None]


@dataclass(slots=True, frozen=True)
class TextArray:
    """``text[]``; None is null."""

    items: Sequence[str | None]


def _header(element_oid: int, count: int, *, has_null: bool = False) -> bytes:
    return pack(">iiIii", 1, has_null, element_oid, count, 1)


def _fixed(element_oid: int, width: int, items: Sequence[bytes]) -> bytes:
    if not items:
        return pack(">iiI", 0, 0, element_oid)
    length = _INT32.pack(width)
    return _header(element_oid, len(items)) + length + length.join(items)


def _varying(element_oid: int, items: Sequence[bytes | None]) -> bytes:
    if not items:
        return pack(">iiI", 0, 0, element_oid)
    length = _INT32.pack
    parts = [
        part
        for item in items
        for part in ((length(len(item)), item) if item is not None else (_NULL,))
    ]
    return _header(element_oid, len(items), has_null=True) + b"".join(parts)


class _ArrayDumper(Dumper):
    format = Format.BINARY


class _UuidArrayDumper(_ArrayDumper):
    oid = 2951

    def dump(self, obj: UuidArray) -> bytes:
        return _fixed(2950, 16, obj.items)


class _RawBigintArrayDumper(_ArrayDumper):
    oid = 1016

    def dump(self, obj: RawBigintArray) -> bytes:
        return _fixed(20, 8, obj.items)


class _IntArrayDumper(_ArrayDumper):
    oid = 1007

    def dump(self, obj: IntArray) -> bytes:
        return _fixed(23, 4, [_INT32.pack(item) for item in obj.items])


class _ByteaArrayDumper(_ArrayDumper):
    oid = 1001

    def dump(self, obj: ByteaArray) -> bytes:
        return _varying(17, obj.items)


class _TextArrayDumper(_ArrayDumper):
    oid = 1009

    def dump(self, obj: TextArray) -> bytes:
        return _varying(25, [None if item is None else item.encode() for item in obj.items])


class _MicrosecondsLoader(Loader):
    """``timestamptz`` as whole microseconds since the Unix epoch."""

    format = Format.BINARY

    def load(self, data: bytes | bytearray | memoryview) -> int:
        return int.from_bytes(data, "big", signed=True) + _EPOCH_SHIFT


def register(context: AdaptContext) -> None:
    """Teaches a connection the array types above, and timestamps as microseconds."""
    adapters = context.adapters
    assert adapters is not None
    adapters.register_dumper(UuidArray, _UuidArrayDumper)
    adapters.register_dumper(RawBigintArray, _RawBigintArrayDumper)
    adapters.register_dumper(IntArray, _IntArrayDumper)
    adapters.register_dumper(ByteaArray, _ByteaArrayDumper)
    adapters.register_dumper(TextArray, _TextArrayDumper)
    adapters.register_loader("timestamptz", _MicrosecondsLoader)
