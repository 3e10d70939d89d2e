"""One log line for each change of a task's state, at debug.

A line names the task and where it stands. It never holds a lease token (the right to answer for
the lease), nor anything that producers and workers sent: payload, result, error, metadata, keys.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from uuid import UUID

_log = logging.getLogger(__name__)


def wanted() -> bool:
    """Whether anybody reads the lines. Asked first: to make them costs more than the work."""
    return _log.isEnabledFor(logging.DEBUG)


def tell(event: str, task_id: bytes, **fields: object) -> None:
    """One change of one task. Fields that are None are left out."""
    given = {name: value for name, value in fields.items() if value is not None}
    _log.debug(
        "task %s", event, extra={"fields": {"task_id": str(UUID(bytes=task_id[:16])), **given}}
    )


def tell_all(event: str, task_ids: Iterable[bytes]) -> None:
    """The same change of several tasks, if anybody reads it."""
    if wanted():
        for task_id in task_ids:
            tell(event, task_id)


def tell_count(event: str, count: int) -> None:
    """A change of so many tasks that the server does not know by name."""
    if count and wanted():
        _log.debug("tasks %s", event, extra={"fields": {"count": count}})
