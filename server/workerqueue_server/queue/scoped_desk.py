"""Answers for leases from principals that may not answer for every lease.

A lease token is an opaque name, but no secret strong enough to be the only guard: so a worker with
a scope answers for tasks of its scope alone. For any other task its token is no live lease, which
is also all that it learns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from workerqueue_server.queue.access import Principal
from workerqueue_server.queue.batcher import Batcher
from workerqueue_server.queue.lanes import LaneTable
from workerqueue_server.queue.leases import Finish, LeaseDesk
from workerqueue_server.queue.sessions import SessionBook
from workerqueue_server.store.records import LiveLease, Prolongation, Return
from workerqueue_server.store.tasks import TOKEN_BYTES, TaskStore

_MAX_BATCH = 4_096
_MAX_WAITING = 100_000


class _Answer(Protocol):
    @property
    def token(self) -> bytes: ...


AnswerT = TypeVar("AnswerT", bound=_Answer)
ResultT = TypeVar("ResultT")


class LaneFinder:
    """Finds out to which lanes tasks belong; many questions share one statement."""

    def __init__(self, store: TaskStore, lanes: LaneTable) -> None:
        self._store = store
        self._lanes = lanes
        self._questions = Batcher[bytes, int | None](
            "lanes of tasks", self._look_up, max_batch=_MAX_BATCH, max_waiting=_MAX_WAITING
        )

    async def run(self) -> None:
        """Answers until cancelled."""
        await self._questions.run()

    async def in_scope(self, principal: Principal, task_ids: Collection[bytes]) -> set[bytes]:
        """Those of the tasks that exist and are in the principal's scope."""
        ids = list(task_ids)
        found = set()
        for task_id, lane_id in zip(ids, await self._questions.submit(ids), strict=True):
            lane = None if lane_id is None else self._lanes.get(lane_id)
            if lane is not None and principal.scope.has(lane.queue, lane.kind):
                found.add(task_id)
        return found

    async def _look_up(self, task_ids: list[bytes]) -> Sequence[int | None]:
        lanes = await self._store.lanes_of_tasks(task_ids)
        for lane in lanes.values():
            self._lanes.learn(lane)
        return [lanes[i].lane_id if i in lanes else None for i in task_ids]


@dataclass(frozen=True, slots=True)
class ScopedDesk:
    """The desk as one principal may use it.

    Invariant: what a session holds is in its principal's scope, for it was granted under a
    subscription that is, or presented here. So leases that the principal's own streams hold need no
    look at the database; all others are looked up by their task, whose queue and kind never change.
    """

    desk: LeaseDesk
    book: SessionBook
    finder: LaneFinder
    principal: Principal

    def finish(self, items: Sequence[Finish]) -> asyncio.Future[Sequence[bool]]:
        """As LeaseDesk.finish."""
        return self._submit(items, self.desk.finish, False)

    def take_back(self, items: Sequence[Return]) -> asyncio.Future[Sequence[bool]]:
        """As LeaseDesk.take_back."""
        return self._submit(items, self.desk.take_back, False)

    def heartbeat(self, items: Sequence[Prolongation]) -> asyncio.Future[Sequence[int | None]]:
        """As LeaseDesk.heartbeat."""
        return self._submit(items, self.desk.heartbeat, None)

    async def present(self, tokens: Sequence[bytes]) -> dict[bytes, LiveLease]:
        """As LeaseDesk.present."""
        fit = [token for token in tokens if len(token) == TOKEN_BYTES]
        allowed = await self._allowed(fit)
        return await self.desk.present([token for token in fit if token in allowed])

    def _submit(
        self,
        items: Sequence[AnswerT],
        submit: Callable[[Sequence[AnswerT]], asyncio.Future[Sequence[ResultT]]],
        lost: ResultT,
    ) -> asyncio.Future[Sequence[ResultT]]:
        if all(self._is_held(item.token) for item in items):
            return submit(items)
        return asyncio.ensure_future(self._submit_allowed(items, submit, lost))

    async def _submit_allowed(
        self,
        items: Sequence[AnswerT],
        submit: Callable[[Sequence[AnswerT]], asyncio.Future[Sequence[ResultT]]],
        lost: ResultT,
    ) -> Sequence[ResultT]:
        allowed = await self._allowed([item.token for item in items])
        passed = [item for item in items if item.token in allowed]
        results = iter(await submit(passed) if passed else ())
        return [next(results) if item.token in allowed else lost for item in items]

    async def _allowed(self, tokens: Sequence[bytes]) -> set[bytes]:
        held = {token for token in tokens if self._is_held(token)}
        others = {token[:16] for token in tokens if token not in held}
        found = await self.finder.in_scope(self.principal, others) if others else set()
        return held | {token for token in tokens if token[:16] in found}

    def _is_held(self, token: bytes) -> bool:
        session = self.book.holder(token)
        return session is not None and session.principal.key == self.principal.key
