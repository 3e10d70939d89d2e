"""Counters, distributions, bounds on names; how they look to Prometheus."""

from __future__ import annotations

import re

from tests.unit.server.test_planning import Deaf
from workerqueue_server.app.prometheus import metric_name
from workerqueue_server.queue.narrowing import Span
from workerqueue_server.queue.sessions import Holding, Session, SessionBook
from workerqueue_server.telemetry.figures import About, Bounded, Counter, Distribution, largest
from workerqueue_server.telemetry.instruments import FIGURES


def about(*attributes: str) -> About:
    return About("workerqueue.test", "s", "A test.", attributes)


def test_a_value_observed_many_times_counts_as_often() -> None:
    distribution = Distribution(about("queue"), (0.1, 1.0))
    distribution.record(0.1, "q", times=3)
    distribution.record(0.5, "q")
    distribution.record(7.0, "q", times=2)
    bins = distribution.points()[("q",)]
    assert bins.counts == [3, 1, 2]
    assert bins.cumulative() == [3, 4, 6]
    assert abs(bins.total - 14.8) < 1e-9


def test_what_is_read_does_not_change_any_more() -> None:
    counter = Counter(about("queue"))
    counter.add(2, "q")
    points = counter.points()
    counter.add(1, "q")
    assert points == {("q",): 2}
    assert counter.points() == {("q",): 3}


def test_too_many_names_become_other_and_the_first_keep_theirs() -> None:
    names = Bounded(2)
    assert [names("a", "x"), names("b", "x"), names("c", "x"), names("a", "x")] == [
        ("a", "x"),
        ("b", "x"),
        ("other", "other"),
        ("a", "x"),
    ]


def test_the_largest_keep_their_names_and_nothing_is_left_out() -> None:
    points: dict[tuple[str, ...], float] = {
        ("a", "s"): 1.0,
        ("b", "s"): 5.0,
        ("c", "s"): 2.0,
        ("c", "t"): 2.0,
    }
    assert largest(points, 1) == {("b", "s"): 5.0, ("other", "s"): 3.0, ("other", "t"): 2.0}
    assert largest(points, 2) == {
        ("b", "s"): 5.0,
        ("c", "s"): 2.0,
        ("c", "t"): 2.0,
        ("other", "s"): 1.0,
    }


def test_names_are_of_the_form_that_both_sides_take() -> None:
    names = [figure.about.name for figure in FIGURES]
    assert len(set(names)) == len(names)
    for figure in FIGURES:
        assert re.fullmatch(r"workerqueue(\.[a-z_]+)+", figure.about.name)
        assert figure.about.unit in ("s", "1") or re.fullmatch(r"\{[a-z]+\}", figure.about.unit)
        assert figure.about.description.endswith(".")
        assert re.fullmatch(r"[a-z_]+", metric_name(figure))
        assert metric_name(figure).endswith("_total") == isinstance(figure, Counter)
        assert "_seconds" in metric_name(figure) or figure.about.unit != "s"


def test_a_lease_is_known_after_its_stream_is_gone_and_dropped_once() -> None:
    book = SessionBook()
    session = Session("s", "w", (), (), None, Deaf())
    book.add(session)
    holding = Holding("q", "k", Span(1.0, 30.0))
    book.hold(session, [b"1", b"2"], holding)
    book.remove(session)
    assert book.tokens() == []
    assert book.holding(b"1") is holding
    assert book.drop([b"1"]).counts == {holding: 1}
    assert book.drop([b"1"]).counts == {}
    other = Session("t", "w", (), (), None, Deaf())
    book.add(other)
    book.resume(other, b"2", None, "w")
    dropped = book.drop([b"2"])
    assert dropped.sessions == {b"2": other}
    assert dropped.counts == {holding: 1}
    assert book.held_by_worker("w", "q") == 0


def test_a_lease_counts_for_the_worker_that_it_was_granted_to() -> None:
    book = SessionBook()
    lender, borrower = (Session(w, w, (), (), None, Deaf()) for w in ("lender", "borrower"))
    for session in (lender, borrower):
        book.add(session)
    book.hold(lender, [b"1"], Holding("q"))
    for session in (borrower, lender, borrower):
        book.resume(session, b"1", None, "lender")
        assert list(session.held) == [b"1"]
        assert (book.held_by_worker("lender", "q"), book.held_by_worker("borrower", "q")) == (1, 0)
    book.remove(borrower)
    book.resume(lender, b"1", None, "lender")
    assert book.held_by_worker("lender", "q") == 1
    book.drop([b"1"])
    assert book.held_by_worker("lender", "q") == 0
