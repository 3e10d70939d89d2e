"""What the contract means, in plain Python: one step after the other, everything in memory.

Times are microseconds since the epoch. Two things are left open, because the contract leaves them
open: which of several streams gets a task, and which of several finished tasks that are the same is
named. The caller tells the model what was granted; the model says whether it may be.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from tests.model.records import SECOND, Ask, Lease, Queue, Refused, Task

DEFAULT_BACKOFF = (2 * SECOND, 2, 10 * SECOND)


@dataclass
class Model:
    """The queue."""

    now: int
    tasks: dict[str, Task] = field(default_factory=dict)
    queues: dict[str, Queue] = field(default_factory=dict)
    # Requests that changed another task.
    replaced: dict[str, str] = field(default_factory=dict)
    # What ended leases were ended with: "succeeded", "failed", or something else.
    ended: dict[bytes, tuple[str, str]] = field(default_factory=dict)
    # Streams to be told of a lease's end: (stream, token, reason).
    cancellations: list[tuple[int, bytes, str]] = field(default_factory=list)
    _positions: int = 0

    # Enqueue.

    def enqueue(self, asks: Sequence[Ask], *, strict: bool = False) -> list[tuple[str, set[str]]]:
        """Outcome and possible ids of each; "refused" for those a strict batch takes along."""
        base = self._next_position()
        before = copy.deepcopy(self.__dict__)
        keys: list[str] = []
        outcomes = []
        for place, ask in enumerate(asks):
            outcome = self._put(ask, (base, place), keys)
            if outcome[0] == "conflict" and strict:
                self.__dict__ = before
                rest: list[tuple[str, set[str]]] = [("refused", {""})] * len(asks)
                rest[place] = outcome
                return rest
            outcomes.append(outcome)
        self._admit(keys)
        return outcomes

    def _put(self, ask: Ask, position: tuple[int, int], keys: list[str]) -> tuple[str, set[str]]:
        if ask.task_id in self.tasks:
            return "existed", {ask.task_id}
        if ask.task_id in self.replaced:
            return "replaced", {self.replaced[ask.task_id]}
        run_at = max(self.now, ask.run_at or 0)
        task = Task(
            ask, self.now, run_at, position, job_key=ask.job_key, priority=ask.priority,
            max_attempts=ask.max_attempts, expire_at=ask.expire_at,
            unique_key=ask.unique_key(run_at),
        )  # fmt: skip
        if job := self._job(ask.job_key):
            if ask.mode == "dedupe":
                return "kept", {job.task_id}
            if job.state != "leased":
                self._replace(job, task, keys)
                self.replaced[ask.task_id] = job.task_id
                return "replaced", {job.task_id}
            task.behind = job.task_id
        if same := self._same(task):
            assert ask.unique is not None
            return "conflict" if ask.unique.fail else "kept", same
        self.tasks[ask.task_id] = task
        self._wait_or_run(task)
        keys.append(ask.key)
        return "created", {ask.task_id}

    def _job(self, job_key: str) -> Task | None:
        """The successor that waits for a job key, or its holder."""
        mine = [t for t in self.tasks.values() if job_key and t.live and t.job_key == job_key]
        return next((t for t in mine if t.behind), mine[0] if mine else None)

    def _same(self, task: Task) -> set[str]:
        same = [
            t
            for t in self.tasks.values()
            if task.unique_key is not None and t.unique_key == task.unique_key
        ]
        live = {t.task_id for t in same if t.live}
        return live or {
            t.task_id
            for t in same
            if t.ask.unique is not None and t.state in t.ask.unique.counts_in
        }

    def _replace(self, job: Task, new: Task, keys: list[str]) -> None:
        keeps_time = new.ask.mode == "preserve" and job.attempt == 0
        run_at = job.run_at if keeps_time else new.run_at
        holds = job.state == "available" and job.ask.key == new.ask.key
        keys += [job.ask.key, new.ask.key]
        made = Task(
            replace(new.ask, task_id=job.task_id), job.created_at, run_at,
            job.position if keeps_time else new.position,
            job_key=job.job_key, priority=new.priority, max_attempts=new.max_attempts,
            expire_at=new.expire_at, behind=job.behind, attempts=job.attempts,
        )  # fmt: skip
        self._wait_or_run(made)
        if holds and made.state == "blocked":
            made.state = "available"
        self.tasks[job.task_id] = made

    # Waiting and holding.

    def _wait_or_run(self, task: Task) -> None:
        """Where a task that nobody holds goes; admission follows."""
        if task.behind is not None:
            task.state = "blocked"
        elif task.run_at > self.now:
            task.state = "scheduled"
        else:
            task.state = "blocked" if task.ask.key else "available"

    def _admit(self, keys: Iterable[str]) -> None:
        """Gives free places under the keys to the first that wait, by priority and position."""
        for key in sorted(set(keys) - {""}):
            mine = [t for t in self.tasks.values() if t.ask.key == key and t.live]
            waiting = sorted((t for t in mine if t.waits), key=_line)
            if not waiting:
                continue
            for holder in mine:
                if holder.state == "available" and holder.priority < waiting[0].priority:
                    holder.state = "blocked"
            held = sum(t.state in ("available", "leased") for t in mine)
            waiting = sorted((t for t in mine if t.waits), key=_line)
            for place, task in enumerate(waiting[: max(0, waiting[0].ask.key_limit - held)], 1):
                if held + place > task.ask.key_limit:
                    break
                task.state = "available"

    # Leases.

    def grantable(
        self, queues: Sequence[str], kinds: Sequence[str], worker: str
    ) -> dict[str, list[Task]]:
        """Per queue what the worker may get now, in order."""
        result = {}
        for name in queues:
            queue = self.queues[name]
            line = sorted(
                (
                    t
                    for t in self.tasks.values()
                    if t.ask.queue == name
                    and t.state == "available"
                    and t.in_time(self.now)
                    and (not kinds or t.ask.kind in kinds)
                ),
                key=_line,
            )
            result[name] = [] if queue.paused else line[: self._room(name, queue, worker)]
        return result

    def _room(self, name: str, queue: Queue, worker: str) -> int:
        held = self.held_by_worker(name)
        total = queue.total - held.total() if queue.total else 10**6
        per_worker = queue.per_worker - held[worker] if queue.per_worker else 10**6
        return max(0, min(total, per_worker))

    def held_by_worker(self, queue: str) -> Counter[str]:
        """How many leases of a queue each worker holds."""
        return Counter(t.worker for t in self.tasks.values() if t.lease and t.ask.queue == queue)

    def grant(
        self, task_id: str, token: bytes, worker: str, own_lease: int | None, stream: int | None
    ) -> Task:
        """Grants a lease; an attempt is charged."""
        task = self.tasks[task_id]
        duration = own_lease or task.ask.lease
        deadline = self.now + task.ask.timeout
        task.lease = Lease(
            token, worker, duration, min(deadline, self.now + duration), deadline, stream
        )
        task.state, task.worker, task.started_at = "leased", worker, self.now
        task.attempt += 1
        return task

    def holder_of(self, token: bytes) -> Task | None:
        """The task whose live lease this is."""
        return next((t for t in self.tasks.values() if t.lease and t.lease.token == token), None)

    def ack(self, token: bytes, result: str) -> None:
        """Finishes; a repeat is answered like the first. Raises Refused."""
        task = self._answered(token, "succeeded")
        if task is None:
            return
        task.attempts.append((task.attempt, task.worker, "succeeded"))
        task.result = result
        self._end_lease(task, "succeeded")
        self._finish(task, "succeeded")
        self._let_others_on([task])

    def fail(self, token: bytes, error: str, retry_after: int | None, permanent: bool) -> None:
        """Ends an attempt with an error. Raises Refused."""
        task = self._answered(token, "failed")
        if task is not None:
            self._end_attempt(task, "failed", error, retry_after, permanent)
            self._let_others_on([task])

    def give_back(self, token: bytes, snooze: int | None) -> None:
        """Releases, or puts off; not charged. Raises Refused."""
        task = self._answered(token, "given back")
        if task is None:
            return
        self._end_lease(task, "given back")
        if self._successor(task):
            self._finish(task, "cancelled", "Replaced")
        else:
            task.attempt -= 1
            task.state = "available"
            if snooze is not None:
                task.state, task.run_at = "scheduled", self.now + snooze
        self._let_others_on([task])

    def heartbeat(self, token: bytes, progress: float | None, checkpoint: str) -> int:
        """The lease's new end. Raises Refused."""
        task = self.holder_of(token)
        if task is None or task.lease is None:
            raise Refused("LEASE_LOST")
        lease = task.lease
        lease.expires = min(self.now + lease.duration, lease.deadline)
        task.progress = task.progress if progress is None else progress
        task.checkpoint = checkpoint or task.checkpoint
        return lease.expires

    def _answered(self, token: bytes, how: str) -> Task | None:
        """The task to change; None: this very answer was given before."""
        if (task := self.holder_of(token)) is not None:
            return task
        before, task_id = self.ended.get(token, ("", ""))
        if how in ("succeeded", "failed") and before == how and task_id in self.tasks:
            return None
        raise Refused("LEASE_LOST")

    def _end_lease(self, task: Task, how: str, tell: str = "") -> None:
        assert task.lease is not None
        self.ended[task.lease.token] = (how, task.task_id)
        if tell and task.lease.stream is not None:
            self.cancellations.append((task.lease.stream, task.lease.token, tell))
        task.lease = None

    def _end_attempt(
        self, task: Task, outcome: str, error: str, retry_after: int | None, permanent: bool
    ) -> None:
        tell = {"lost": "LEASE_LOST", "timed_out": "TIMED_OUT"}.get(outcome, "")
        self._end_lease(task, outcome, tell)
        task.attempts.append((task.attempt, task.worker, outcome))
        task.error = error
        if permanent or task.attempt >= task.max_attempts or self._successor(task):
            self._finish(task, "dead", error)
            return
        initial, factor, longest = DEFAULT_BACKOFF
        backoff = min(longest, initial * factor ** (task.attempt - 1))
        task.state = "retrying"
        task.run_at = self.now + (backoff if retry_after is None else retry_after)

    def _successor(self, task: Task) -> Task | None:
        return next((t for t in self.tasks.values() if t.behind == task.task_id and t.live), None)

    def _finish(self, task: Task, state: str, error: str = "") -> None:
        task.state, task.finished_at, task.behind = state, self.now, None
        task.error = error or task.error

    def _let_others_on(self, gone: Iterable[Task]) -> None:
        """Successors of ended leases pass, and keys are handed over."""
        keys = []
        for task in gone:
            keys.append(task.ask.key)
            successor = self._successor(task)
            if successor and not (task.task_id in self.tasks and task.live):
                successor.behind = None
                successor.position = (self._next_position(), 0)
                self._wait_or_run(successor)
                keys.append(successor.ask.key)
        self._admit(keys)

    # Time.

    def next_moment(self) -> int | None:
        """When something happens by itself next."""
        moments = [t.run_at for t in self.tasks.values() if t.state in ("scheduled", "retrying")]
        moments += [min(t.lease.expires, t.lease.deadline) for t in self.tasks.values() if t.lease]
        moments += [
            t.expire_at
            for t in self.tasks.values()
            if t.live and not t.lease and t.attempt == 0 and t.expire_at is not None
        ]
        return min(moments, default=None)

    def pass_time(self) -> None:
        """Does what is due by now."""
        while (moment := self.next_moment()) is not None and moment <= self.now:
            self._expire_leases()
            self._promote()
            self._expire_unstarted()

    def _expire_leases(self) -> None:
        over = []
        for task in self.tasks.values():
            if task.lease and min(task.lease.expires, task.lease.deadline) <= self.now:
                timed_out = task.lease.deadline <= self.now
                over.append((task, timed_out))
        for task, timed_out in over:
            error = "AttemptTimedOut" if timed_out else "LeaseExpired"
            self._end_attempt(task, "timed_out" if timed_out else "lost", error, None, False)
        self._let_others_on(task for task, _ in over)

    def _promote(self) -> None:
        due = [
            t
            for t in self.tasks.values()
            if t.state in ("scheduled", "retrying") and t.run_at <= self.now
        ]
        base = self._next_position()
        for place, task in enumerate(sorted(due, key=lambda t: (t.run_at, t.position))):
            task.position = (base, place)
            self._wait_or_run(task)
        self._admit(t.ask.key for t in due)

    def _expire_unstarted(self) -> None:
        late = [
            t for t in self.tasks.values() if t.live and not t.lease and not t.in_time(self.now)
        ]
        for task in late:
            self._finish(task, "expired")
        self._admit(t.ask.key for t in late)

    # Operators.

    def cancel(self, task_id: str) -> None:
        """Raises Refused."""
        task = self._known(task_id)
        if not task.live:
            if task.state != "cancelled":
                raise Refused("WRONG_STATE")
            return
        error = ""
        if task.lease:
            task.attempts.append((task.attempt, task.worker, "cancelled"))
            self._end_lease(task, "cancelled", "CANCELLED")
        self._finish(task, "cancelled", error)
        self._let_others_on([task])

    def delete(self, task_id: str) -> None:
        """Raises Refused."""
        task = self._known(task_id)
        if task.lease:
            self._end_lease(task, "deleted", "CANCELLED")
        del self.tasks[task_id]
        self._let_others_on([task])

    def retry(self, task_id: str, attempts: int) -> None:
        """Raises Refused."""
        task = self._known(task_id)
        if task.state in ("available", "blocked"):
            return
        if task.state in ("leased", "succeeded"):
            raise Refused("WRONG_STATE")
        revived = not task.live
        if revived:
            self._revive(task)
        task.max_attempts = max(task.max_attempts, task.attempt + attempts)
        task.run_at, task.position = self.now, (self._next_position(), 0)
        self._wait_or_run(task)
        self._admit([task.ask.key])

    def _revive(self, task: Task) -> None:
        others = [t for t in self.tasks.values() if t.live]
        if task.unique_key and any(t.unique_key == task.unique_key for t in others):
            raise Refused("KEY_CONFLICT")
        if any(t.job_key == task.job_key for t in others):
            task.job_key = ""
        if task.expire_at is not None and task.expire_at <= self.now:
            task.expire_at = None
        task.finished_at = None
        task.progress = None

    def reschedule(self, task_id: str, run_at: int) -> None:
        """Raises Refused."""
        task = self._waiting(task_id)
        if task.state in ("scheduled", "retrying"):
            task.position = (self._next_position(), 0)
        was = task.state
        task.run_at = max(self.now, run_at)
        self._wait_or_run(task)
        if task.state == "scheduled" and was == "retrying":
            task.state = "retrying"
        if task.state == "blocked" and was == "available":
            task.state = "available"
        self._admit([task.ask.key])

    def prioritize(self, task_id: str, priority: int) -> None:
        """Raises Refused."""
        task = self._waiting(task_id)
        task.priority = priority
        self._admit([task.ask.key])

    def remove_by_job_key(self, job_key: str) -> tuple[str, str]:
        """Ids of the cancelled and the released task. Raises Refused."""
        mine = [t for t in self.tasks.values() if t.live and t.job_key == job_key]
        if not mine:
            raise Refused("TASK_NOT_FOUND")
        cancelled = released = ""
        for task in mine:
            if task.lease:
                released, task.job_key = task.task_id, ""
                task.max_attempts = task.attempt
            else:
                cancelled = task.task_id
                self._finish(task, "cancelled", "Removed")
        self._admit(t.ask.key for t in mine)
        return cancelled, released

    def _known(self, task_id: str) -> Task:
        if task_id not in self.tasks:
            raise Refused("TASK_NOT_FOUND")
        return self.tasks[task_id]

    def _waiting(self, task_id: str) -> Task:
        task = self._known(task_id)
        if not task.live or task.lease:
            raise Refused("WRONG_STATE")
        return task

    def _next_position(self) -> int:
        self._positions += 1
        return self._positions


def _line(task: Task) -> tuple[int, tuple[int, int]]:
    return -task.priority, task.position
