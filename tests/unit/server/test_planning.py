"""What the planner asks the database for: whom it serves, in which turn, within which limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from workerqueue_server.queue.access import ANYBODY, Principal
from workerqueue_server.queue.planning import Planner, Request
from workerqueue_server.queue.sessions import EndReason, Holding, Session, SessionBook
from workerqueue_server.store.records import GrantRun, Lane, LanePlace, QueueLimits, SweptLane


class Deaf:
    """A stream that takes note of nothing."""

    def deliver(self, runs: Sequence[GrantRun]) -> None:
        raise AssertionError("the planner delivers nothing")

    def cancel(self, token: bytes, reason: EndReason) -> None:
        raise AssertionError("the planner cancels nothing")

    def drain(self, grace_seconds: float) -> None:
        raise AssertionError("the planner drains nothing")

    def wake(self) -> None:
        """Nobody waits."""


class Table:
    """A planner with lanes and sessions that are easy to make."""

    def __init__(self, in_flight_per_principal: int = 1000) -> None:
        self.book = SessionBook(in_flight_per_principal)
        self.planner = Planner(self.book)
        self._sessions = 0

    def lane(self, queue: str, kind: str = "k", priority: int = 0) -> int:
        lane_id = len(self.planner.lanes) + 1
        self.planner.add_lane(Lane(lane_id, queue, kind, priority))
        return lane_id

    def session(
        self,
        *queues: str,
        window: int = 10,
        worker: str = "",
        kinds: Sequence[str] = (),
        principal: Principal = ANYBODY,
    ) -> Session:
        self._sessions += 1
        name = f"s{self._sessions}"
        allowance = self.book.allowance_of(principal)
        session = Session(name, worker or name, queues, kinds, None, Deaf(), principal, allowance)
        session.window = window
        self.book.add(session)
        self.planner.join(session)
        return session

    def hold(self, session: Session, queue: str, count: int) -> None:
        start = len(session.held)
        tokens = [f"{session.session_id}-{n}".encode() for n in range(start, start + count)]
        self.book.hold(session, tokens, Holding(queue))

    def settle(self, requests: list[Request], count: int = 0) -> None:
        for request in requests:
            self.planner.granted(request, count)


def workers(request: Request) -> list[str]:
    """The worker of each place, in order."""
    grant = request.grant
    places = grant.places or [0] * grant.wanted
    return [grant.workers[place] for place in places]


def test_nothing_is_asked_for_without_demand_or_without_lanes() -> None:
    table = Table()
    assert table.planner.plan() == []
    session = table.session("q", window=0)
    table.lane("q")
    assert table.planner.plan() == []
    session.window = 1
    assert table.planner.plan() == [], "nobody said that the window was raised"
    table.planner.demand(session)
    assert len(table.planner.plan()) == 1


def test_a_stream_takes_only_lanes_of_its_queues_and_kinds() -> None:
    table = Table()
    wanted = table.lane("a", "k1")
    table.lane("a", "k2")
    table.lane("b", "k1")
    table.session("a", kinds=["k1"])
    (request,) = table.planner.plan()
    assert request.grant.lanes == [wanted]


def test_streams_with_one_subscription_share_a_request_and_take_turns() -> None:
    table = Table()
    table.lane("q")
    one, two = table.session("q", window=3), table.session("q", window=1)
    (request,) = table.planner.plan()
    assert request.grant.wanted == 4
    assert workers(request) == [one.worker_id, two.worker_id, one.worker_id, one.worker_id]


def test_what_a_request_may_bring_is_not_asked_for_twice() -> None:
    table = Table()
    table.lane("q")
    session = table.session("q", window=10)
    first = table.planner.plan()
    table.planner.demand(session)
    assert table.planner.plan() == []
    table.settle(first, 10)
    table.planner.demand(session)
    assert len(table.planner.plan()) == 1, "the lane may have more, and nothing is held"


def test_a_lane_that_gave_less_than_asked_rests_until_it_is_woken() -> None:
    table = Table()
    lane_id = table.lane("q")
    session = table.session("q")
    table.settle(table.planner.plan(), 3)
    assert not table.planner.may_have_tasks(session)
    assert table.planner.plan() == []
    table.planner.lanes[lane_id].wake(1)
    assert table.planner.may_have_tasks(session)
    assert len(table.planner.plan()) == 1


def test_a_wake_up_during_the_grant_is_not_slept_through() -> None:
    table = Table()
    lane_id = table.lane("q")
    table.session("q")
    requests = table.planner.plan()
    table.planner.lanes[lane_id].wake(5)
    table.settle(requests, 0)
    assert len(table.planner.plan()) == 1


def test_the_cursor_follows_what_was_read_and_goes_back_for_what_appears_behind_it() -> None:
    table = Table()
    state = table.planner.lanes[table.lane("q")]
    state.read(50, 10, 0)
    state.read(40, 1, 0)
    assert state.cursor == 50
    state.wake(60)
    assert state.cursor == 50
    state.wake(20)
    assert state.cursor == 19


def swept(ahead: int | None, passed: int | None, behind: int | None, start: int) -> SweptLane:
    return SweptLane(Lane(1, "q", "k", 0), ahead, passed, behind, start)


def test_a_sweep_moves_the_cursor_past_leases_but_not_past_what_is_announced_meanwhile() -> None:
    table = Table()
    state = table.planner.lanes[table.lane("q")]
    state.read(50, 10, 0)
    state.swept(swept(None, 90, None, 0), state.wakes)
    assert state.cursor == 90
    wakes = state.wakes
    # Available since the sweep looked there.
    state.wake(120)
    state.swept(swept(None, 150, None, 0), wakes)
    assert (state.cursor, state.ready) == (90, True)


def test_a_sweep_wakes_what_was_missed_and_goes_on_where_it_ended() -> None:
    table = Table()
    state = table.planner.lanes[table.lane("q")]
    state.read(50, 10, 0)
    state.rest()
    state.swept(swept(None, None, None, 30), state.wakes)
    assert (state.ready, table.planner.places()) == (False, [LanePlace(1, 50, 30)])
    state.swept(swept(None, None, 40, 30), state.wakes)
    assert (state.ready, state.cursor) == (True, 39)
    # What a sweep saw in front of the cursor may have been granted since.
    state.read(80, 10, 0)
    state.rest()
    state.swept(swept(70, None, None, 0), state.wakes)
    assert (state.ready, state.cursor) == (True, 80)


def test_a_failed_round_leaves_its_streams_waiting() -> None:
    table = Table()
    table.lane("q")
    session = table.session("q", window=2)
    table.planner.unplan(table.planner.plan())
    assert session.demand == 2
    assert len(table.planner.plan()) == 1


def test_where_a_queue_limits_per_worker_each_worker_asks_for_itself() -> None:
    table = Table()
    table.planner.set_limits({"q": QueueLimits(per_worker=3, total=None, paused=False)})
    table.lane("q")
    one, two = table.session("q"), table.session("q")
    table.hold(one, "q", 2)
    requests = {r.sessions[0].session_id: r for r in table.planner.plan()}
    assert requests[one.session_id].grant.wanted == 1
    assert requests[two.session_id].grant.wanted == 3


def test_two_streams_of_one_worker_share_its_limit() -> None:
    table = Table()
    table.planner.set_limits({"q": QueueLimits(per_worker=3, total=None, paused=False)})
    table.lane("q")
    one, two = table.session("q", worker="w"), table.session("q", worker="w")
    table.hold(one, "q", 3)
    table.planner.demand(two)
    assert table.planner.plan() == []
    assert not table.planner.may_have_tasks(two)


def test_a_full_limit_leaves_the_other_queues_of_a_subscription_open() -> None:
    table = Table()
    table.planner.set_limits({"full": QueueLimits(per_worker=1, total=None, paused=False)})
    table.lane("full")
    open_lane = table.lane("open")
    session = table.session("full", "open", window=10)
    table.hold(session, "full", 1)
    (request,) = table.planner.plan()
    assert request.grant.lanes == [open_lane]
    assert request.grant.wanted == 9


def test_a_paused_queue_is_left_out_and_comes_back() -> None:
    table = Table()
    table.lane("q")
    session = table.session("q")
    paused = QueueLimits(per_worker=None, total=None, paused=True)
    table.planner.set_limits({"q": paused})
    assert table.planner.plan() == []
    assert not table.planner.may_have_tasks(session)
    table.planner.set_limits({})
    assert len(table.planner.plan()) == 1


def test_an_eased_limit_wakes_the_lanes_of_its_queue() -> None:
    table = Table()
    table.lane("q")
    table.session("q")
    table.planner.set_limits({"q": QueueLimits(per_worker=None, total=1, paused=False)})
    table.settle(table.planner.plan(), 0)
    assert table.planner.plan() == []
    table.planner.set_limits({"q": QueueLimits(per_worker=None, total=1, paused=False)})
    assert table.planner.plan() == [], "nothing changed"
    table.planner.set_limits({"q": QueueLimits(per_worker=None, total=2, paused=False)})
    assert len(table.planner.plan()) == 1


def test_the_highest_priorities_of_a_queue_that_does_not_fit_are_read_first() -> None:
    table = Table()
    for priority in range(100):
        table.lane("q", priority=priority)
    table.session("q")
    (request,) = table.planner.plan()
    priorities = {table.planner.lanes[lane].lane.priority for lane in request.grant.lanes}
    assert priorities == set(range(68, 100))
    table.settle([request], 0)
    (request,) = table.planner.plan()
    assert max(table.planner.lanes[lane].lane.priority for lane in request.grant.lanes) == 67


def test_all_queues_of_a_large_subscription_get_their_turn() -> None:
    table = Table()
    for n in range(20):
        for priority in range(10):
            table.lane(f"q{n}", priority=priority)
    session = table.session(*(f"q{n}" for n in range(20)), window=1)
    served: Counter[str] = Counter()
    for _ in range(60):
        table.planner.demand(session)
        (request,) = table.planner.plan()
        served.update({table.planner.lanes[lane].lane.queue for lane in request.grant.lanes})
        # Every request brings all it asked for: no lane ever rests.
        table.settle([request], request.grant.wanted)
    assert len(served) == 20
    assert min(served.values()) >= 3


def read_out(table: Table, request: Request, each: int) -> None:
    """The request brought so many tasks of each lane, and with them all that it asked for."""
    for state in request.lanes:
        state.read(state.cursor + each, each, each)
    table.settle([request], request.grant.wanted)


def test_few_lanes_are_read_where_those_have_enough() -> None:
    table = Table()
    lanes = [table.lane(f"q{n}") for n in range(100)]
    session = table.session(window=64)
    seen: list[list[int]] = []
    for _ in range(12):
        table.planner.demand(session)
        (request,) = table.planner.plan()
        seen.append(request.grant.lanes)
        read_out(table, request, each=64 // len(request.lanes))
    # Nothing was known of any lane at first. Then two are enough, and it is each one's turn.
    assert seen[:4] == [lanes[0:32], lanes[32:64], lanes[64:96], [*lanes[96:], lanes[0], lanes[1]]]
    assert seen[4:] == [lanes[n : n + 2] for n in range(2, 18, 2)]


def test_a_limit_that_is_full_does_not_hide_the_queues_behind_it() -> None:
    table = Table()
    for n in range(40):
        table.lane("limited", priority=n % 20)
    behind = table.lane("open")
    session = table.session("limited", "open", window=4)
    for state in table.planner.lanes.values():
        state.has_more = state.lane.queue == "limited"
    table.planner.set_limits({"limited": QueueLimits(per_worker=1, total=None, paused=False)})
    table.hold(session, "limited", 1)
    (request,) = table.planner.plan()
    assert request.grant.lanes == [behind]
    assert request.grant.wanted == 3


def test_a_lane_that_did_not_give_its_share_counts_as_unknown() -> None:
    table = Table()
    for n in range(3):
        table.lane(f"q{n}")
    session = table.session(window=64)
    (request,) = table.planner.plan()
    rich, poor, _ = request.lanes
    rich.read(60, 60, 60)
    poor.read(4, 4, 4)
    table.settle([request], 64)
    assert rich.has_more
    assert not poor.has_more
    table.planner.demand(session)
    (request,) = table.planner.plan()
    # The poor one, the untouched one and the rich one, in the order of their turns.
    assert len(request.lanes) == 3
    table.settle([request], 63)
    assert not rich.has_more, "the request was not filled"


def test_groups_that_a_round_does_not_reach_come_first_in_the_next() -> None:
    table = Table()
    for n in range(100):
        table.lane(f"q{n}")
        table.session(f"q{n}", window=1)
    seen: Counter[str] = Counter()
    for _ in range(4):
        requests = table.planner.plan()
        assert 0 < len(requests) <= 64
        seen.update(request.sessions[0].session_id for request in requests)
        table.settle(requests, 1)
    assert len(seen) == 100


def test_one_round_is_bounded_in_tasks_and_in_bytes() -> None:
    table = Table()
    state = table.planner.lanes[table.lane("q")]
    state.read(1, 1_000, 0)
    table.session("q", window=100_000)
    (request,) = table.planner.plan()
    assert request.grant.wanted == 4_096
    table.settle([request], 4_096)
    state.read(2, 1_000, 1_000 * 1024 * 1024)
    (request,) = table.planner.plan()
    assert request.grant.wanted <= 16


def test_a_stream_that_left_is_neither_planned_for_nor_remembered() -> None:
    table = Table()
    lane_id = table.lane("q")
    session = table.session("q")
    table.planner.part(session)
    assert table.planner.plan() == []
    table.planner.demand(session)
    assert table.planner.plan() == []
    assert table.planner.lanes[lane_id].groups == []


def test_a_draining_or_suspended_stream_asks_for_nothing() -> None:
    table = Table()
    table.lane("q")
    draining, suspended = table.session("q"), table.session("q")
    draining.draining = True
    suspended.suspended = True
    assert table.planner.plan() == []


def test_tasks_just_stored_are_offered_to_a_group_that_waits() -> None:
    table = Table()
    lane_id = table.lane("q")
    table.session("q", window=3)
    assert table.planner.offer([lane_id], 5) == [], "it still has lanes to read"
    table.settle(table.planner.plan(), 0)
    (request,) = table.planner.offer([lane_id], 5)
    assert (request.grant.lanes, request.grant.wanted) == ([lane_id], 3)
    assert table.planner.offer([999], 5) == []


def token(key: str) -> Principal:
    """A principal with a token."""
    return Principal(key, key, frozenset())


def wanted(table: Table) -> Counter[str]:
    """What the next plan asks for, by worker; the requests bring as much, and it is held."""
    asked: Counter[str] = Counter()
    for request in table.planner.plan():
        for session, share in zip(request.sessions, request.shares, strict=True):
            asked[session.worker_id] += share
            table.hold(session, "q", share)
        table.planner.granted(request, request.grant.wanted)
    return asked


def test_streams_of_one_principal_share_what_it_may_hold() -> None:
    table = Table(in_flight_per_principal=12)
    table.lane("q")
    first = table.session("q", principal=token("a"))
    second = table.session("q", principal=token("a"))
    other = table.session("q", principal=token("b"))
    assert wanted(table) == {first.worker_id: 10, second.worker_id: 2, other.worker_id: 10}
    assert wanted(table) == {}
    # An answer on one stream makes room for the other, which waits longer.
    table.book.drop(list(first.held)[:3])
    table.planner.demand(first)
    assert wanted(table) == {second.worker_id: 3}
    # So does a stream that goes away.
    table.planner.part(first)
    table.book.remove(first)
    assert wanted(table) == {second.worker_id: 5}


def test_what_a_grant_under_way_may_bring_counts_and_is_freed_with_it() -> None:
    table = Table(in_flight_per_principal=10)
    table.lane("q")
    first = table.session("q", principal=token("a"))
    (request,) = table.planner.plan()
    second = table.session("q", principal=token("a"))
    assert table.planner.plan() == []
    table.planner.unplan([request])
    (request,) = table.planner.plan()
    assert request.sessions in ([first], [second])
    table.planner.granted(request, 0)
    assert first.allowance is not None
    assert first.allowance.taken == 0


def test_a_principal_at_its_bound_is_held_back_under_limits_for_each_worker_too() -> None:
    table = Table(in_flight_per_principal=5)
    table.lane("q")
    table.planner.set_limits({"q": QueueLimits(4, None, False)})
    first = table.session("q", principal=token("a"))
    second = table.session("q", principal=token("a"))
    assert wanted(table) == {first.worker_id: 4, second.worker_id: 1}
    # In turn, whoever answers.
    for session, count in ((first, 4), (second, 3)):
        assert wanted(table) == {}
        table.book.drop(list(first.held))
        table.planner.demand(first)
        assert wanted(table)[session.worker_id] == count


def test_callers_without_tokens_are_held_back_by_their_windows_alone() -> None:
    table = Table(in_flight_per_principal=1)
    table.lane("q")
    first, second = table.session("q"), table.session("q")
    assert wanted(table) == {first.worker_id: 10, second.worker_id: 10}


def test_leases_brought_along_count_beyond_the_bound_and_nothing_is_kept_of_who_left() -> None:
    table = Table(in_flight_per_principal=3)
    table.lane("q")
    session = table.session("q", principal=token("a"))
    for number in range(5):
        table.book.resume(session, b"%d" % number, None, "w")
    assert session.demand == 0
    table.book.drop([b"0", b"1"])
    assert session.demand == 0
    table.book.drop([b"2"])
    assert session.demand == 1
    first = session.allowance
    table.planner.part(session)
    table.book.remove(session)
    del session
    assert first is not None
    assert first.taken == 0
