"""Work that comes back: a duty does one step and says how long to wait before the next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic

from workerqueue_server.store.errors import DatabaseUnavailable, StoreError
from workerqueue_server.telemetry import instruments

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0

# One step; seconds until the next.
Duty = Callable[[], Awaitable[float]]

# When each duty should have been done again.
_due: dict[str, float] = {}


def note_done(name: str, pause: float) -> None:
    """A duty was done and is due again after so many seconds."""
    _due[name] = monotonic() + pause


def lags() -> dict[tuple[str, ...], float]:
    """How many seconds each duty is behind."""
    now = monotonic()
    return {(name,): max(0.0, now - due) for name, due in _due.copy().items()}


async def repeat(name: str, duty: Duty) -> None:
    """Does a duty until cancelled; a failing database only delays it."""
    note_done(name, 0)
    instruments.DUTY_FAILED.expect(name)
    while True:
        try:
            pause = await duty()
        except DatabaseUnavailable as error:
            _log.warning("%s: the database does not answer: %s", name, error)
            instruments.DUTY_FAILED.add(1, name)
            pause = _RETRY_SECONDS
        except StoreError:
            _log.exception("%s failed", name)
            instruments.DUTY_FAILED.add(1, name)
            pause = _RETRY_SECONDS
        else:
            note_done(name, pause)
        if pause > 0:
            await asyncio.sleep(pause)
