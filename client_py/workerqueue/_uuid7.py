"""UUID version 7 (RFC 9562): ids that sort in the order they were made."""

from __future__ import annotations

import os
import threading
import time
from typing import Final

_UNITS_PER_MS: Final = 4096
_lock = threading.Lock()
_last = 0


def uuid7() -> str:
    """A new UUIDv7 in its canonical lower-case form.

    Ids made by one process always increase: the 12 bits after the version hold the fraction of the
    millisecond (RFC 9562, method 3), and a clock that stands still or goes back only counts on.
    """
    global _last
    now = time.time_ns() * _UNITS_PER_MS // 1_000_000
    with _lock:
        if now <= _last:
            now = _last + 1
        _last = now
    millis, fraction = divmod(now, _UNITS_PER_MS)
    random = int.from_bytes(os.urandom(8), "big") & ((1 << 62) - 1)
    value = f"{(millis << 80) | (7 << 76) | (fraction << 64) | (2 << 62) | random:032x}"
    return f"{value[:8]}-{value[8:12]}-{value[12:16]}-{value[16:20]}-{value[20:]}"
