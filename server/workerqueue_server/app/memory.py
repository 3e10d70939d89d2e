"""How the process treats memory that it has used and freed."""

from __future__ import annotations

import ctypes
import logging

_log = logging.getLogger(__name__)

# glibc's mallopt: parameters of <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# Messages and payloads from here on get pages of their own, which go back when they are freed.
_OWN_PAGES_BYTES = 256 * 1024
_KEPT_FREE_BYTES = 16 * 1024 * 1024


def give_back_large_blocks() -> None:
    """Makes the allocator return large blocks to the system when they are freed.

    By default glibc raises its threshold to the largest block that was ever freed, up to 32 MiB,
    and from then on cuts such blocks from a heap that shrinks only at its end: after one burst of
    large payloads the process would keep several times what it needs. Does nothing where there is
    no glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    # Either call fixes both thresholds, so the second must say what the first left at 128 KiB.
    if not (
        mallopt(_M_MMAP_THRESHOLD, _OWN_PAGES_BYTES)
        and mallopt(_M_TRIM_THRESHOLD, _KEPT_FREE_BYTES)
    ):
        _log.warning("the allocator keeps its defaults: memory of large payloads may stay in use")
