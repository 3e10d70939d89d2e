"""Random use of the whole contract, checked against the model after every step."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.model.records import SECOND, Ask, Unique
from tests.model.side_by_side import SideBySide
from tests.model.system import KINDS, Stream, ack_request, micros
from tests.toolkit import packed
from workerqueue.tasks.v1 import tasks_pb2
from workerqueue.v1 import lease_pb2, task_admin_pb2, task_pb2

KEYS = st.sampled_from(["", "", "k", "l"])
JOB_KEYS = st.sampled_from(["a", "b"])
WORKERS = st.sampled_from(["w1", "w2"])
FINAL_SETS = st.frozensets(st.sampled_from(["succeeded", "dead", "cancelled", "expired"]))
UNIQUES = st.builds(
    Unique,
    by_args=st.just(True),
    by_queue=st.booleans(),
    period=st.sampled_from([None, 10 * SECOND]),
    counts_in=FINAL_SETS,
    fail=st.booleans(),
)
# Plain ones are the most frequent; a job key and uniqueness exclude each other.
SORTS = st.sampled_from(["plain", "plain", "job", "unique"])
DELAYS = st.sampled_from([None, None, None, 2 * SECOND, 9 * SECOND])
EXPIRIES = st.sampled_from([None, None, None, 0, 4 * SECOND])
AFTER = st.sampled_from([None, SECOND, 7 * SECOND])


@st.composite
def wishes(draw: st.DrawFn) -> dict[str, Any]:
    """A request but for its id, queue and times."""
    sort = draw(SORTS)
    return {
        "place": draw(st.integers(0, 1)),
        "kind": draw(st.sampled_from(sorted(KINDS))),
        "payload": draw(st.sampled_from(["x", "y"])),
        "priority": draw(st.sampled_from([0, 0, 5, -3])),
        "max_attempts": draw(st.integers(1, 3)),
        "timeout": draw(st.sampled_from([3 * SECOND, 60 * SECOND])),
        "lease": draw(st.sampled_from([2 * SECOND, 5 * SECOND])),
        "key": draw(KEYS),
        "delay": draw(DELAYS),
        "expires": draw(EXPIRIES),
        "job_key": draw(JOB_KEYS) if sort == "job" else "",
        "mode": draw(st.sampled_from(["replace", "preserve", "dedupe"])),
        "unique": draw(UNIQUES) if sort == "unique" else None,
    }


class Contract(SideBySide):
    """Two queues, two workers, their streams, an operator, and time."""

    # Producers.

    def _ask(self, wish: dict[str, Any]) -> Ask:
        wish = dict(wish)
        now = self.model.now
        delay, expires = wish.pop("delay"), wish.pop("expires")
        key, job_key = wish["key"], wish["job_key"]
        wish["key"] = f"{self.number}-{key}" if key else ""
        wish["job_key"] = f"{self.number}-{job_key}" if job_key else ""
        # What is the same is the same for one example only.
        wish["payload"] = f"{self.number}-{wish['payload']}"
        return Ask(
            task_id=str(uuid.uuid4()),
            queue=self.queues[wish.pop("place")],
            key_limit=2 if key == "l" else 1,
            run_at=None if delay is None else now + delay,
            expire_at=None if expires is None else now + expires,
            lease=self._own(wish.pop("lease")),
            timeout=self._own(wish.pop("timeout")),
            **wish,
        )

    @rule(wish=wishes())
    def enqueue(self, wish: dict[str, Any]) -> None:
        self._tick()
        self._send(self._ask(wish))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def repeat_enqueue(self, data: st.DataObject) -> None:
        self._tick()
        self._send(data.draw(st.sampled_from(self.sent)))

    def _send(self, ask: Ask) -> None:
        self.sent.append(ask)
        outcome, task_id = self.system.enqueue(ask)
        ((expected, ids),) = self.model.enqueue([ask])
        assert (outcome, task_id in ids) == (expected, True), (outcome, task_id, expected, ids)
        self._settle()

    @rule(chosen=st.lists(wishes(), min_size=1, max_size=5), strict=st.booleans(),
          repeats=st.booleans())  # fmt: skip
    def enqueue_batch(self, chosen: list[dict[str, Any]], strict: bool, repeats: bool) -> None:
        self._tick()
        before = len(self.sent)
        for wish in chosen:
            self.sent.append(self._ask(wish))
        asks = self.sent[before:]
        asks += asks[:1] if repeats else []
        answers = self.system.enqueue_batch(asks, strict=strict)
        expected = self.model.enqueue(asks, strict=strict)
        assert [outcome for outcome, _ in answers] == [outcome for outcome, _ in expected]
        for (_, task_id), (_, ids) in zip(answers, expected, strict=True):
            assert task_id in ids
        self._settle()

    # Workers.

    @rule(
        count=st.integers(1, 4),
        worker=WORKERS,
        own=st.sampled_from([None, 3 * SECOND]),
        places=st.sampled_from([[0], [1], [0, 1]]),
        kinds=st.sampled_from([[], ["runFinished"]]),
    )
    def take(
        self, count: int, worker: str, own: int | None, places: list[int], kinds: list[str]
    ) -> None:
        self._tick()
        queues = [self.queues[place] for place in places]
        expected = self.model.grantable(queues, kinds, worker)
        got = self.system.take(queues, kinds, count, worker, own)
        assert len(got) == min(count, sum(map(len, expected.values())))
        for name, line in expected.items():
            mine = [task.task_id for task in got if task.queue == name]
            assert mine == [task.task_id for task in line][: len(mine)]
        for task in got:
            self._granted(task, worker, own, None)
        self._settle()

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), by_stream=st.booleans())
    def ack(self, data: st.DataObject, by_stream: bool) -> None:
        self._tick()
        self._ack(self._draw_token(data), by_stream)
        self._settle()

    def _ack(self, token: bytes, by_stream: bool) -> None:
        result = f"result-{self.steps}"
        stream = next(iter(self.streams.values()), None) if by_stream else None

        def call() -> None:
            if stream is None:
                self.system.ack(token, result)
            else:
                stream.send(acks=[ack_request(token, result)])
                stream.result(token)

        self._same(call, lambda: self.model.ack(token, result))

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), how=st.sampled_from(["fail", "fail", "die", "release", "snooze"]),
          after=AFTER, by_stream=st.booleans())  # fmt: skip
    def nack(self, data: st.DataObject, how: str, after: int | None, by_stream: bool) -> None:
        self._tick()
        self._nack(self._draw_token(data), how, after, by_stream)
        self._settle()

    def _nack(self, token: bytes, how: str, after: int | None, by_stream: bool) -> None:
        wait = None if after is None else micros(after)
        error = task_pb2.TaskError(type="Boom")
        actions: dict[str, dict[str, Any]] = {
            "fail": {"fail": lease_pb2.Fail(error=error, retry_after=wait)},
            "die": {"fail": lease_pb2.Fail(error=error, permanent=True)},
            "release": {"release": lease_pb2.Release()},
            "snooze": {"snooze": lease_pb2.Snooze(delay=micros(after or SECOND))},
        }
        expected: Callable[[], None] = {
            "fail": lambda: self.model.fail(token, "Boom", after, False),
            "die": lambda: self.model.fail(token, "Boom", None, True),
            "release": lambda: self.model.give_back(token, None),
            "snooze": lambda: self.model.give_back(token, after or SECOND),
        }[how]
        stream = next(iter(self.streams.values()), None) if by_stream else None

        def call() -> None:
            if stream is None:
                self.system.nack(token, **actions[how])
            else:
                stream.send(nacks=[lease_pb2.NackRequest(lease_token=token, **actions[how])])
                stream.result(token)

        self._same(call, expected)

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), fraction=st.sampled_from([None, 0.5]), news=st.booleans())
    def heartbeat(self, data: st.DataObject, fraction: float | None, news: bool) -> None:
        self._tick()
        self._heartbeat(self._draw_token(data), fraction, news)
        self._settle()

    def _heartbeat(self, token: bytes, fraction: float | None, news: bool) -> None:
        checkpoint = f"checkpoint-{self.steps}" if news else ""
        fields: dict[str, Any] = {}
        if fraction is not None:
            fields["progress"] = task_pb2.Progress(fraction=fraction)
        if news:
            fields["checkpoint"] = packed(tasks_pb2.RunFinished(id=checkpoint))
        self._same(
            lambda: self.system.heartbeat(token, **fields),
            lambda: self.model.heartbeat(token, fraction, checkpoint),
        )

    def _draw_token(self, data: st.DataObject) -> bytes:
        """Mostly a live lease's token; now and then an older one of its task, or any."""
        leased = [t for t in self.model.tasks.values() if t.lease]
        live = [t.lease.token for t in leased if t.lease]
        ids = {uuid.UUID(t.task_id).bytes for t in leased}
        older = [t for t in self.tokens if t[:16] in ids and t not in live]
        sorts = [tokens for tokens in (live, live, older, self.tokens) if tokens]
        return data.draw(st.sampled_from(data.draw(st.sampled_from(sorts))))

    @rule(worker=WORKERS, place=st.integers(0, 1), how=st.sampled_from(["fail", "lose"]))
    def waste_attempts(self, worker: str, place: int, how: str) -> None:
        """Takes what there is, does not finish it, and waits until it may be taken again."""
        self.take(4, worker, None, [place], [])
        for task in [t for t in self.model.tasks.values() if t.lease and how == "fail"]:
            assert task.lease is not None
            self._nack(task.lease.token, "fail", None, by_stream=False)
        self._settle()
        self.let_time_pass(20 * SECOND)

    @precondition(lambda self: len(self.streams) < 2)
    @rule(data=st.data(), worker=WORKERS, window=st.integers(0, 3),
          places=st.sampled_from([[0], [0, 1]]), present=st.integers(0, 2))  # fmt: skip
    def open_stream(
        self, data: st.DataObject, worker: str, window: int, places: list[int], present: int
    ) -> None:
        self._tick()
        held = [self._draw_token(data) for _ in range(present)] if self.tokens else []
        self._open(worker, window, places, held)

    def _open(self, worker: str, window: int, places: list[int], held: list[bytes]) -> int:
        number = self.steps
        queues = [self.queues[place] for place in places]
        stream = Stream(self.system, queues, worker, window, held)
        assert stream.welcome is not None
        alive = [lease.alive for lease in stream.welcome.held_leases]
        holders = [self.model.holder_of(token) for token in held]
        assert alive == [holder is not None for holder in holders]
        for holder in holders:
            if holder is not None and holder.lease is not None:
                holder.lease.stream = number
        self.streams[number] = stream
        self._settle()
        return number

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), window=st.integers(0, 4))
    def change_window(self, data: st.DataObject, window: int) -> None:
        self._change_window(data.draw(st.sampled_from(sorted(self.streams))), window)

    def _change_window(self, number: int, window: int) -> None:
        self._tick()
        stream = self.streams[number]
        stream.window = window
        stream.send(max_in_flight=window)
        self._settle()

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), politely=st.booleans())
    def close_stream(self, data: st.DataObject, politely: bool) -> None:
        self._tick()
        number = data.draw(st.sampled_from(sorted(self.streams)))
        self._close(number, politely)
        self._settle()

    # Operators.

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), call=st.sampled_from(["cancel", "delete", "retry", "retry"]))
    def operate(self, data: st.DataObject, call: str) -> None:
        self._tick()
        self._operate(data.draw(st.sampled_from([ask.task_id for ask in self.sent])), call)
        self._settle()

    def _operate(self, task_id: str, call: str) -> None:
        pb = task_admin_pb2
        request, expected = {
            "cancel": (pb.CancelTaskRequest(task_id=task_id), self.model.cancel),
            "delete": (pb.DeleteTaskRequest(task_id=task_id), self.model.delete),
            "retry": (
                pb.RetryTaskRequest(task_id=task_id, attempts=2),
                lambda task_id: self.model.retry(task_id, 2),
            ),
        }[call]
        self._same(
            lambda: self.system.operate(f"{call.title()}Task", request), lambda: expected(task_id)
        )

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), delay=st.sampled_from([0, 3 * SECOND]),
          priority=st.sampled_from([None, 0, 7]))  # fmt: skip
    def reschedule(self, data: st.DataObject, delay: int, priority: int | None) -> None:
        self._tick()
        task_id = data.draw(st.sampled_from([ask.task_id for ask in self.sent]))
        request = task_admin_pb2.RescheduleTaskRequest(task_id=task_id)
        if priority is not None:
            request.priority = priority
            expected = lambda: self.model.prioritize(task_id, priority)  # noqa: E731
        else:
            request.delay.CopyFrom(micros(delay))
            expected = lambda: self.model.reschedule(task_id, self.model.now + delay)  # noqa: E731
        self._same(lambda: self.system.operate("RescheduleTask", request), expected)
        self._settle()

    @rule(job_key=JOB_KEYS)
    def remove_by_job_key(self, job_key: str) -> None:
        self._tick()
        name = f"{self.number}-{job_key}"
        request = task_admin_pb2.RemoveByJobKeyRequest(job_key=name)

        def remove() -> tuple[str, str]:
            answer = self.system.operate("RemoveByJobKey", request)
            return answer.cancelled_task_id, answer.released_task_id

        self._same(remove, lambda: self.model.remove_by_job_key(name))
        self._settle()

    @rule(place=st.integers(0, 1), paused=st.booleans())
    def pause(self, place: int, paused: bool) -> None:
        self._tick()
        self._pause(self.queues[place], paused)
        self._settle()

    @rule(place=st.integers(0, 1), total=st.integers(0, 2), per_worker=st.integers(0, 2))
    def limit(self, place: int, total: int, per_worker: int) -> None:
        self._tick()
        self._limit(self.queues[place], total, per_worker)
        self._settle()

    # Time.

    @rule(by=st.sampled_from([SECOND, 2 * SECOND, 6 * SECOND, 20 * SECOND]))
    def let_time_pass(self, by: int) -> None:
        self._tick()
        self._advance_to(self.model.now + by)

    @precondition(lambda self: self.model.next_moment())
    @rule()
    def await_next_moment(self) -> None:
        self._tick()
        if moment := self.model.next_moment():
            self._advance_to(moment)
