"""A memory of what was worked out before, small whatever callers send."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

_MAX_ENTRIES = 10_000
# Options may hold 16 KiB of metadata, which are as different as callers make them.
_MAX_BYTES = 8 * 1024 * 1024
# A key, its place in the table and the value's object.
_ENTRY_BYTES = 400


class BoundedCache(dict[Key, Value]):
    """A dictionary that is emptied when it would hold too many entries or too many bytes.

    Emptied whole, because that costs nothing while the few entries that callers share are found.
    """

    def __init__(self, max_entries: int = _MAX_ENTRIES, max_bytes: int = _MAX_BYTES) -> None:
        super().__init__()
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bytes = 0

    def keep(self, key: Key, value: Value, size: int) -> Value:
        """Remembers the value, which holds about so many bytes, its key's included."""
        size += _ENTRY_BYTES
        if len(self) >= self._max_entries or self._bytes + size > self._max_bytes:
            self.clear()
            self._bytes = 0
        self._bytes += size
        self[key] = value
        return value
