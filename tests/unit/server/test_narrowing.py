"""Streams that let leases run out are given less, and get it back by answering in time."""

from __future__ import annotations

import pytest

from tests.unit.server.test_planning import Table
from workerqueue_server.queue import sessions
from workerqueue_server.queue.narrowing import Attention, Narrowing, Span
from workerqueue_server.queue.sessions import EndReason, Holding, Session

LEASE = 10.0
WINDOW = 16


class Clock:
    """The monotonic clock of the book, which stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(sessions, "monotonic", clock)
    return clock


class Worker:
    """A stream whose worker answers, or lets leases run out."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.table = Table()
        self.session: Session = self.table.session("q", window=WINDOW)
        self._number = 0

    def take(self, count: int | None = None) -> list[bytes]:
        """The stream is granted leases: as many as it may hold, unless said."""
        tokens = []
        for _ in range(self.session.demand if count is None else count):
            self._number += 1
            tokens.append(f"token {self._number}".encode())
        holding = Holding("q", "k", Span(self.clock.now, LEASE))
        self.table.book.hold(self.session, tokens, holding)
        return tokens

    def run_out(self, tokens: list[bytes], reason: EndReason = EndReason.LEASE_LOST) -> int:
        """They are ended by their clocks; how many leases the stream may hold now."""
        self.table.book.ran_out([(token, reason) for token in tokens], 0.0)
        self.table.book.drop(tokens)
        return self.session.places

    def answer(self, tokens: list[bytes]) -> int:
        """They are answered; how many leases the stream may hold now."""
        self.session.heard(self.clock.now)
        self.table.book.heard(tokens, are_over=True)
        self.table.book.drop(tokens)
        return self.session.places

    def reconnect(self, after: float) -> None:
        """The stream ends, and a while later the worker has another one."""
        self.table.planner.part(self.session)
        self.table.book.remove(self.session)
        self.clock.now += after
        self.session = self.table.session("q", window=WINDOW, worker=self.session.worker_id)


@pytest.fixture
def worker(clock: Clock) -> Worker:
    return Worker(clock)


def chatter(worker: Worker, seconds: float) -> None:
    """Time passes, in which the worker says something now and then."""
    for _ in range(10):
        worker.clock.now += seconds / 10
        worker.session.heard(worker.clock.now)


def test_leases_of_one_round_halve_the_window_once(worker: Worker) -> None:
    tokens = worker.take()
    chatter(worker, LEASE)
    assert worker.run_out(tokens[8:]) == WINDOW // 2
    assert worker.run_out(tokens[:8]) == WINDOW // 2
    again = worker.take(WINDOW // 2)
    chatter(worker, LEASE)
    assert worker.run_out(again) == WINDOW // 4


def test_one_lease_is_answered_before_more_are_granted(worker: Worker) -> None:
    tokens = worker.take()
    chatter(worker, LEASE)
    worker.run_out(tokens)
    trial = worker.take()
    assert len(trial) == 1
    assert worker.session.demand == 0
    # However late: what waited before it has been read.
    chatter(worker, LEASE * 0.7)
    worker.answer(trial)
    assert worker.session.demand == WINDOW // 2


def test_a_trial_that_comes_to_nothing_is_repeated(worker: Worker) -> None:
    tokens = worker.take()
    chatter(worker, LEASE)
    worker.run_out(tokens)
    trial = worker.take()
    # An operator cancels the task.
    worker.table.book.drop(trial)
    assert worker.session.demand == 0
    chatter(worker, LEASE)
    assert worker.session.demand == 1
    worker.session.reserve(1)
    assert worker.session.demand == 0


def test_a_window_that_is_wider_than_what_is_held_is_cut_to_half_of_that(worker: Worker) -> None:
    tokens = worker.take(6)
    chatter(worker, LEASE)
    assert worker.run_out(tokens) == 3


def test_each_answer_in_time_adds_a_place_until_the_window_is_whole(worker: Worker) -> None:
    tokens = worker.take()
    chatter(worker, LEASE)
    assert worker.run_out(tokens) == 8
    worker.clock.now += 1
    assert worker.answer(worker.take(3)) == 11
    assert worker.answer(worker.take()) == WINDOW
    assert worker.session.narrowing is None
    assert not worker.table.book.narrowed


def test_answers_that_come_less_soon_add_a_place_a_round(worker: Worker) -> None:
    tokens = worker.take()
    chatter(worker, LEASE)
    assert worker.run_out(tokens) == 8
    tokens = worker.take(8)
    chatter(worker, LEASE * 0.4)
    assert worker.answer(tokens) == 8
    tokens = worker.take(2)
    chatter(worker, LEASE * 0.4)
    assert worker.answer(tokens) == 9


def test_heartbeats_that_come_as_they_should_add_places(worker: Worker) -> None:
    tokens = worker.take()
    chatter(worker, LEASE)
    assert worker.run_out(tokens) == 8
    tokens = worker.take(8)
    chatter(worker, LEASE / 3)
    worker.table.book.heard(tokens, are_over=False)
    assert worker.session.narrowing is None


def test_late_answers_add_nothing(worker: Worker) -> None:
    tokens = worker.take()
    chatter(worker, LEASE)
    assert worker.run_out(tokens) == 8
    late = worker.take()
    chatter(worker, LEASE * 0.7)
    assert worker.answer(late) == 8


def test_a_silent_worker_gets_one_after_pauses_that_double(worker: Worker) -> None:
    tokens = worker.take()
    worker.clock.now += LEASE
    assert worker.run_out(tokens) == 0
    for pause in (LEASE, 2 * LEASE, 4 * LEASE, 60.0, 60.0):
        worker.clock.now += pause - 0.1
        assert worker.session.places == 0
        worker.clock.now += 0.1
        assert worker.session.places == 1
        probe = worker.take()
        assert len(probe) == 1
        worker.clock.now += LEASE
        assert worker.run_out(probe) == 0


def test_a_worker_that_is_back_from_its_silence_need_not_wait(worker: Worker) -> None:
    tokens = worker.take()
    worker.clock.now += LEASE
    assert worker.run_out(tokens) == 0
    worker.clock.now += 1
    assert worker.session.heard(worker.clock.now)
    assert worker.session.places == 1
    for doubled in (2, 4, 8, WINDOW):
        assert worker.answer(worker.take()) == doubled
    assert worker.session.narrowing is None


def test_heartbeats_alone_do_not_end_the_pause_of_a_worker_that_does_not_read(
    worker: Worker,
) -> None:
    tokens = worker.take()
    chatter(worker, LEASE)
    worker.run_out(tokens)
    for _ in range(4):
        taken = worker.take()
        chatter(worker, LEASE)
        worker.run_out(taken)
    assert worker.session.places == 0
    assert not worker.session.heard(worker.clock.now)


def test_what_ends_before_its_time_is_nobodys_fault(worker: Worker) -> None:
    """The database's clock jumped."""
    tokens = worker.take()
    worker.clock.now += LEASE / 2
    assert worker.run_out(tokens) == WINDOW


def test_nobody_is_to_blame_for_what_the_server_could_not_hear(worker: Worker) -> None:
    tokens = worker.take()
    worker.clock.now += LEASE
    lost = [(token, EndReason.LEASE_LOST) for token in tokens]
    worker.table.book.ran_out(lost, worker.clock.now - 1)
    assert worker.session.places == WINDOW


def test_work_that_takes_too_long_does_not_narrow_the_window(worker: Worker) -> None:
    tokens = worker.take()
    chatter(worker, LEASE)
    assert worker.run_out(tokens, EndReason.TIMED_OUT) == WINDOW
    tokens = worker.take()
    worker.clock.now += LEASE
    assert worker.run_out(tokens, EndReason.TIMED_OUT) == 0


def test_answers_at_another_server_count(worker: Worker) -> None:
    tokens = worker.take()
    chatter(worker, LEASE)
    assert worker.run_out(tokens) == 8
    answered = worker.take(2)
    worker.table.book.heard_elsewhere(answered)
    assert worker.session.places == 10


def test_a_stream_that_is_gone_is_forgotten(worker: Worker) -> None:
    tokens = worker.take()
    worker.clock.now += LEASE
    worker.run_out(tokens)
    assert worker.table.book.narrowed == {worker.session}
    worker.table.book.remove(worker.session)
    assert not worker.table.book.narrowed


def test_a_worker_that_comes_back_soon_goes_on_as_if_it_had_not_left(worker: Worker) -> None:
    tokens = worker.take()
    chatter(worker, LEASE)
    narrow = worker.run_out(tokens)
    assert narrow == WINDOW // 2
    worker.reconnect(after=1.0)
    assert worker.session.places == narrow
    assert worker.table.book.narrowed == {worker.session}
    (trial,) = worker.take()
    worker.reconnect(after=1.0)
    # What it was given last is not heard of yet.
    assert worker.session.demand == 0
    worker.table.book.resume(worker.session, trial, None, worker.session.worker_id)
    worker.answer([trial])
    assert worker.session.demand == narrow + 1


def test_a_worker_that_comes_back_from_its_silence_need_not_wait(worker: Worker) -> None:
    for _ in range(2):
        tokens = worker.take()
        worker.clock.now += LEASE
        worker.run_out(tokens)
        worker.clock.now += LEASE
    assert worker.session.demand == 0
    worker.reconnect(after=1.0)
    assert worker.session.demand == 1


def test_a_worker_that_comes_back_late_or_in_another_name_gets_its_whole_window(
    worker: Worker,
) -> None:
    tokens = worker.take()
    chatter(worker, LEASE)
    worker.run_out(tokens)
    other = worker.table.session("q", window=WINDOW, worker="another")
    assert other.demand == WINDOW
    worker.reconnect(after=61.0)
    assert worker.session.demand == WINDOW


def test_how_narrow_streams_were_is_remembered_for_so_many_workers(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_MAX_NARROW_LEFT", 1)
    tokens = worker.take()
    chatter(worker, LEASE)
    worker.run_out(tokens)
    later = worker.table.session("q", window=WINDOW, worker="later")
    later.narrowing = Narrowing(WINDOW)
    first = worker.session.worker_id
    worker.table.book.remove(worker.session)
    worker.table.book.remove(later)
    assert worker.table.session("q", worker=first).narrowing is None
    assert worker.table.session("q", worker="later").narrowing is not None


def test_a_worker_that_pauses_keeps_its_narrow_window() -> None:
    assert not Narrowing(1).is_over(0)


def test_attention_begins_anew_after_a_gap() -> None:
    attention = Attention(0.0)
    for now in (0.5, 1.0, 1.5):
        attention.note(now)
    assert attention.since(2.0) == 0.0
    assert attention.since(9.0) == 9.0
    attention.note(10.0)
    assert attention.since(10.1) == 10.0
