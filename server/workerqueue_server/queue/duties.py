"""Work that comes back: a duty does one step and says how long to wait before the next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from workerqueue_server.store.errors import DatabaseUnavailable, StoreError

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0

# One step; seconds until the next.
Duty = Callable[[], Awaitable[float]]


async def repeat(name: str, duty: Duty) -> None:
    """Does a duty until cancelled; a failing database only delays it."""
    while True:
        try:
            pause = await duty()
        except DatabaseUnavailable as error:
            _log.warning("%s: the database does not answer: %s", name, error)
            pause = _RETRY_SECONDS
        except StoreError:
            _log.exception("%s failed", name)
            pause = _RETRY_SECONDS
        if pause > 0:
            await asyncio.sleep(pause)
