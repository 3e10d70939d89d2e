"""The server and the model side by side: what is compared after every step, and how time passes."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine

from tests.model.clock import Clock
from tests.model.records import SECOND, Ask, Queue, Refused, Task
from tests.model.reference import Model
from tests.model.system import KINDS, Stream, System, unpacked
from workerqueue.v1 import lease_pb2, queue_admin_pb2, task_pb2

_SETTLE_SECONDS = 20.0
_numbers = itertools.count(1)


class SideBySide(RuleBasedStateMachine):
    """Two queues of its own on the server, and the model of them."""

    def __init__(self, system: System, clock: Clock) -> None:
        super().__init__()
        self.system, self.clock = system, clock
        self.number = next(_numbers)
        self.queues = [f"model-{self.number}-{place}" for place in range(2)]
        self.model = Model(clock.now, queues={name: Queue() for name in self.queues})
        self.sent: list[Ask] = []
        self.tokens: list[bytes] = []
        self.streams: dict[int, Stream] = {}
        self.steps = 0
        # Queues that exist, and finished tasks that were seen to be as they must.
        self.known: set[str] = set()
        self.seen_finished: set[tuple[str, str]] = set()

    # Steps that several rules share.

    def _granted(
        self, got: lease_pb2.LeasedTask, worker: str, own: int | None, stream: int | None
    ) -> None:
        assert got.lease_token not in self.tokens
        task = self.model.grant(got.task_id, got.lease_token, worker, own, stream)
        self.tokens.append(got.lease_token)
        assert (got.attempt, got.max_attempts) == (task.attempt, task.max_attempts)
        assert (got.kind, got.priority) == (task.ask.kind, task.priority)
        assert unpacked(got.checkpoint) == task.checkpoint
        assert got.attempt <= got.max_attempts

    def _close(self, number: int, politely: bool) -> None:
        stream = self.streams.pop(number)
        if politely:
            stream.half_close()
        else:
            stream.cut()
        assert not stream.tasks
        for task in self.model.tasks.values():
            if task.lease and task.lease.stream == number:
                task.lease.stream = None

    def _pause(self, name: str, paused: bool) -> None:
        if name not in self.known:
            self._limit(name, 0, 0)
        if paused:
            self.system.operate("PauseQueue", queue_admin_pb2.PauseQueueRequest(queue=name))
        else:
            self.system.operate("ResumeQueue", queue_admin_pb2.ResumeQueueRequest(queue=name))
        self.model.queues[name].paused = paused

    def _limit(self, name: str, total: int, per_worker: int) -> None:
        request = queue_admin_pb2.UpdateQueueRequest(
            queue=name,
            max_in_flight=total,
            max_in_flight_per_worker=per_worker,
            allow_missing=True,
        )
        self.system.operate("UpdateQueue", request)
        self.known.add(name)
        queue = self.model.queues[name]
        queue.total, queue.per_worker = total, per_worker

    # Time.

    def _tick(self) -> None:
        """A moment of its own for each step, so that what happens by itself happens in turn."""
        self.steps += 1
        self._advance_to(self.model.now + 1_009 + 2 * self.steps)

    def _own(self, duration: int) -> int:
        """About as long, and of another length for each task.

        A lease that is granted when another ends would else run out just when that one's task is
        due again. Two things at one moment have no order, and a key may go to either.
        """
        return duration + (1 + 37 * len(self.sent) % 241) * (SECOND // 1000)

    def _advance_to(self, moment: int) -> None:
        while (due := self.model.next_moment()) is not None and due <= moment:
            self._set_clock(max(due, self.model.now))
            self.model.pass_time()
            self._settle()
        self._set_clock(moment)

    def _set_clock(self, moment: int) -> None:
        self.clock.advance_to(moment)
        self.model.now = moment

    # What must hold after every step.

    def _same(self, call: Callable[[], Any], expected: Callable[[], Any]) -> None:
        """Both answer the same, or refuse for the same reason."""
        got, wanted = _outcome(call), _outcome(expected)
        assert got == wanted, f"{got}, not {wanted}"

    def _settle(self) -> None:
        """Waits until the streams have what they may have, and all is as the model says."""
        self.model.pass_time()
        deadline = time.monotonic() + _SETTLE_SECONDS
        while True:
            problem = self._read_streams() or self._unserved() or self._difference()
            if not problem:
                break
            assert time.monotonic() < deadline, problem
            with self.system.news:
                self.system.news.wait(0.01)
        self._check_cancellations()
        self._check_limits()

    def _read_streams(self) -> str:
        """Enters what arrived, in the order in which it was granted; what cannot be entered.

        One that stands behind another in line may arrive before it, on another stream: it waits for
        that one to be entered.
        """
        with self.system.news:
            arrived = [(task, n) for n, stream in self.streams.items() for task in stream.tasks]
        for task, number in sorted(arrived, key=lambda pair: pair[0].lease_token[16:]):
            stream = self.streams[number]
            line = self.model.grantable(stream.queues, (), stream.worker)[task.queue]
            if task.task_id not in [t.task_id for t in line]:
                return f"not for worker {stream.worker}: {task}"
            assert self._demand(number) > 0, "over its window"
            with self.system.news:
                stream.tasks.remove(task)
            self._granted(task, stream.worker, None, number)
        return ""

    def _demand(self, number: int) -> int:
        held = sum(
            task.lease is not None and task.lease.stream == number
            for task in self.model.tasks.values()
        )
        return self.streams[number].window - held

    def _unserved(self) -> str:
        for number, stream in self.streams.items():
            lines = self.model.grantable(stream.queues, (), stream.worker)
            if self._demand(number) > 0 and any(lines.values()):
                return f"stream {number} has room, and does not get {lines}"
        return ""

    def _difference(self) -> str:
        # History is slow to list, and what is in it does not change.
        finished = {(t.task_id, t.state) for t in self.model.tasks.values() if not t.live}
        everything = finished != self.seen_finished
        tasks = self.system.tasks(self.queues, live_only=not everything)
        shown = {task_id: _shown(t) for task_id, t in tasks.items()}
        expected = {
            task_id: _expected(t) for task_id, t in self.model.tasks.items() if t.live or everything
        }
        if shown == expected:
            self.seen_finished = finished
            return ""
        return "\n".join(
            f"{task_id} {name}: {is_.get(name)!r}, not {must.get(name)!r}"
            for task_id in sorted(shown.keys() | expected.keys())
            for is_, must in [(shown.get(task_id, {}), expected.get(task_id, {}))]
            for name in sorted(is_.keys() | must.keys())
            if is_.get(name) != must.get(name)
        )

    def _check_cancellations(self) -> None:
        expected = Counter(c for c in self.model.cancellations if c[0] in self.streams)
        for number, stream in self.streams.items():
            wanted = [(token, reason) for n, token, reason in expected.elements() if n == number]
            stream.until(lambda s=stream, w=wanted: len(s.cancellations) >= len(w))  # type: ignore[misc]
            assert sorted(stream.cancellations) == sorted(wanted)
            stream.cancellations.clear()
        self.model.cancellations.clear()

    def _check_limits(self) -> None:
        """Said once more without the model's rules."""
        live = [t for t in self.model.tasks.values() if t.live]
        for key, held in Counter(
            t.ask.key for t in live if t.ask.key and t.state in ("available", "leased")
        ).items():
            assert held <= (2 if key.endswith("l") else 1)
        jobs = Counter(t.job_key for t in live if t.job_key and t.behind is None)
        assert all(count == 1 for count in jobs.values())
        assert all(t.attempt <= t.max_attempts for t in self.model.tasks.values())

    def teardown(self) -> None:
        """Everything drains, nothing stays behind, and the statistics tell the truth."""
        try:
            self._check_figures()
            self._drain()
            self._check_figures()
            self._check_attempts()
        finally:
            for stream in self.streams.values():
                stream.cut()

    def _drain(self) -> None:
        for number in sorted(self.streams):
            self._close(number, True)
        for name, queue in self.model.queues.items():
            if queue.paused:
                self._pause(name, False)
            if queue.total or queue.per_worker:
                self._limit(name, 0, 0)
        while any(task.live for task in self.model.tasks.values()):
            self._drain_once()
            if (moment := self.model.next_moment()) is not None:
                self._advance_to(max(moment, self.model.now))

    def _drain_once(self) -> None:
        self._tick()
        got = self.system.take(self.queues, [], 50, "drain", None)
        assert {t.task_id for t in got} == {
            t.task_id
            for line in self.model.grantable(self.queues, (), "drain").values()
            for t in line
        }
        for task in got:
            self._granted(task, "drain", None, None)
        for task in got:
            self._same(
                lambda token=task.lease_token: self.system.ack(token, "drained"),  # type: ignore[misc]
                lambda token=task.lease_token: self.model.ack(token, "drained"),  # type: ignore[misc]
            )
        self._settle()

    def _check_figures(self) -> None:
        for name in self.queues:
            truth = Counter(t.state for t in self.model.tasks.values() if t.ask.queue == name)
            told = self.system.depths(name)
            assert told == truth, f"{told}, not {truth}"

    def _check_attempts(self) -> None:
        for task in self.model.tasks.values():
            if task.attempts:
                told = self.system.attempts(task.task_id)
                assert told == task.attempts, f"{told}, not {task.attempts}"


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        result = call()
    except Refused as refused:
        return str(refused)
    return result if isinstance(result, (int, tuple)) else "OK"


_TIMES = ("created_at", "run_at", "expire_at", "started_at", "finished_at")


def _shown(task: task_pb2.Task) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "state": task_pb2.TaskState.Name(task.state)[11:].lower(),
        "attempt": (task.attempt, task.max_attempts),
        "what": (task.queue, task.kind, task.priority),
        "payload": task.payload.value,
        "keys": (task.concurrency_key, task.job_key),
        "worker": task.worker_id,
        "error": task.last_error.type,
        "checkpoint": unpacked(task.checkpoint),
        "progress": task.progress.fraction if task.HasField("progress") else None,
        "result": unpacked(task.result),
    }
    for name in (*_TIMES, "lease_expires_at", "attempt_deadline"):
        shown[name] = getattr(task, name).ToMicroseconds() if task.HasField(name) else None
    return shown


def _expected(task: Task) -> dict[str, Any]:
    return {
        "state": task.state,
        "attempt": (task.attempt, task.max_attempts),
        "what": (task.ask.queue, task.ask.kind, task.priority),
        "payload": KINDS[task.ask.kind](id=task.ask.payload).SerializeToString(),
        "keys": (task.ask.key, task.job_key),
        "worker": task.worker,
        "error": task.error,
        "checkpoint": task.checkpoint,
        "progress": task.progress,
        "result": task.result,
        "lease_expires_at": task.lease.expires if task.lease else None,
        "attempt_deadline": task.lease.deadline if task.lease else None,
        **{name: getattr(task, name) for name in _TIMES},
    }
