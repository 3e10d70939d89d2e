"""What a call's principal may see and touch of the tasks there are.

A task out of scope does not exist for its callers: they get the same answer as for one that was
never stored. Only where a caller's own wish meets such a task (a key or an id that it holds), the
wish is refused as out of scope.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence

from workerqueue_server.queue.engine import Engine
from workerqueue_server.queue.enqueue import EnqueueResult, NewTask, Outcome
from workerqueue_server.queue.errors import OutOfScope, QueueError, TaskNotFound, Violation
from workerqueue_server.rpc.access import current_principal
from workerqueue_server.store.reads import Record

_UNIQUE = ("options.unique", "unique key")


def task_not_found(task_id: bytes) -> TaskNotFound:
    """There is none, or none that the caller may know of."""
    text = str(uuid.UUID(bytes=task_id))
    return TaskNotFound(f"there is no task {text}", task_id=text)


def sees(record: Record) -> bool:
    """Whether the call's principal may see the task."""
    return current_principal().scope.has(record["queue"], record["kind"])


class Scopes:
    """Checks that look at stored tasks. They cost principals without a scope nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def require_task(self, task_id: bytes) -> None:
        """Raises TaskNotFound if there is no such task, or none for this principal."""
        principal = current_principal()
        if principal.scope and not await self._engine.finder.in_scope(principal, [task_id]):
            raise task_not_found(task_id)

    async def has_foreign_job(self, job_key: str) -> bool:
        """Whether a live task that this principal may not touch has the job key."""
        return bool(current_principal().scope) and bool(await self._foreign([job_key]))

    async def check_job(self, task: NewTask) -> None:
        """Raises OutOfScope if the task would replace, or wait behind, one out of scope."""
        if task.job_key is not None and await self.has_foreign_job(task.job_key):
            raise _taken("options.job_key", "job key")

    async def check_jobs(
        self, size: int, tasks: Sequence[NewTask], refused: dict[int, QueueError]
    ) -> list[NewTask]:
        """As check_job for a batch of ``size`` items, of which ``tasks`` are not refused so far.

        Adds to ``refused``; the tasks that are left.
        """
        keys = {task.job_key for task in tasks if task.job_key is not None}
        if not keys or not current_principal().scope:
            return list(tasks)
        foreign = await self._foreign(keys)
        left = []
        places = (place for place in range(size) if place not in refused)
        for place, task in zip(list(places), tasks, strict=True):
            if task.job_key in foreign:
                refused[place] = _taken("options.job_key", "job key")
            else:
                left.append(task)
        return left

    async def hide_foreign(
        self, tasks: Sequence[NewTask], results: Sequence[EnqueueResult]
    ) -> Sequence[EnqueueResult]:
        """The results, where a task out of scope was found instead of made: with an error."""
        principal = current_principal()
        if not principal.scope:
            return results
        found = {
            place: result.task_id or tasks[place].task_id
            for place, result in enumerate(results)
            if result.error is None and result.outcome is not Outcome.CREATED
        }
        if not found:
            return results
        known = await self._engine.finder.in_scope(principal, set(found.values()))
        shown = list(results)
        for place, task_id in found.items():
            if task_id not in known:
                holds = ("task_id", "id") if results[place].outcome is Outcome.EXISTED else _UNIQUE
                shown[place] = results[place]._replace(error=_taken(*holds))
        return shown

    async def _foreign(self, job_keys: Collection[str]) -> set[str]:
        rows = await self._engine.reads.fetch("lanes_of_job_keys", {"job_keys": list(job_keys)})
        return {row["job_key"] for row in rows if not sees(row)}


def _taken(field: str, what: str) -> OutOfScope:
    return OutOfScope(
        [Violation(field, f"a task out of the token's scope has this {what}; nothing was enqueued")]
    )
