"""Steps that aim at a promise each, and that chance alone would seldom put together.

They are rules among the others, so every search meets them in many situations; and each begins with
a task of its own, so that it says something in an empty queue too.
"""

from __future__ import annotations

import uuid

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.model.machine import Contract
from tests.model.records import SECOND, Ask, Task

ANSWERS = st.sampled_from(["ack", "fail", "release", "heartbeat"])
PLACES = st.integers(0, 1)


class DirectedContract(Contract):
    """Random use of the contract, with a liking for its dangerous corners."""

    def _send_plain(self, place: int, key: str = "") -> Ask:
        ask = Ask(
            str(uuid.uuid4()),
            self.queues[place],
            payload=f"{self.number}-x",
            lease=self._own(2 * SECOND),
            key=f"{self.number}-{key}" if key else "",
        )
        self._tick()
        self._send(ask)
        return ask

    def _leased(self, place: int) -> list[Task]:
        tasks = self.model.tasks.values()
        return [t for t in tasks if t.lease and t.ask.queue == self.queues[place]]

    def _answer(self, token: bytes, how: str, by_stream: bool) -> None:
        self._tick()
        if how == "ack":
            self._ack(token, by_stream)
        elif how == "heartbeat":
            self._heartbeat(token, 0.5, news=True)
        else:
            self._nack(token, how, None, by_stream)
        self._settle()

    @rule(place=PLACES, how=ANSWERS, by_stream=st.booleans())
    def answer_late(self, place: int, how: str, by_stream: bool) -> None:
        """Answers for a lease that ran out, after its task was granted anew."""
        self._send_plain(place)
        self.take(4, "w1", None, [place], [])
        old = {t.task_id: t.lease.token for t in self._leased(place) if t.lease}
        self.let_time_pass(4 * SECOND + SECOND // 2)
        self.take(4, "w2", None, [place], [])
        anew = [
            old[t.task_id]
            for t in self._leased(place)
            if t.lease and old.get(t.task_id, t.lease.token) != t.lease.token
        ]
        for token in anew[:2]:
            self._answer(token, how, by_stream)

    @rule(place=PLACES, by_stream=st.booleans())
    def release_all(self, place: int, by_stream: bool) -> None:
        """Takes tasks and gives them back: none of them has had an attempt."""
        self._send_plain(place)
        self.take(2, "w1", None, [place], [])
        for task in self._leased(place)[:2]:
            if task.lease:
                self._answer(task.lease.token, "release", by_stream)

    @rule(place=PLACES)
    def crowd_a_key(self, place: int) -> None:
        """More tasks under a key than it has room for; the next is let in when one is done."""
        mine = [self._send_plain(place, "k").task_id for _ in range(3)]
        self.take(4, "w1", None, [place], [])
        for task in self._leased(place):
            if task.lease and task.task_id in mine:
                self._answer(task.lease.token, "ack", by_stream=False)

    @rule(place=PLACES, how=ANSWERS, call=st.sampled_from(["cancel", "delete"]))
    def answer_after_the_end(self, place: int, how: str, call: str) -> None:
        """Answers for a lease whose task an operator has ended."""
        self._send_plain(place)
        self.take(4, "w1", None, [place], [])
        for task in self._leased(place)[:1]:
            assert task.lease is not None
            token = task.lease.token
            self._tick()
            self._operate(task.task_id, call)
            self._settle()
            self._answer(token, how, by_stream=False)
