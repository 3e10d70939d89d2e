"""Numbers as protobuf writes them, for bytes that are put together without its library."""

from __future__ import annotations


def varint(number: int) -> bytes:
    """A protobuf varint."""
    if number < len(_VARINTS):
        return _VARINTS[number]
    return _varint(number)


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


_VARINTS = [_varint(number) for number in range(0x800)]
