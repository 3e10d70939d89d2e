"""Decides what to ask the database for: which streams take from which lanes.

Streams with the same subscription form a group and are served by one request, except where a queue
limits what one worker may hold: the database can only count for one worker at a time, so there each
worker makes a request of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from workerqueue_server.queue.quota import Allowance
from workerqueue_server.queue.sessions import Session, SessionBook
from workerqueue_server.store.records import (
    GrantRequest,
    Lane,
    LanePlace,
    QueueLimits,
    SweptLane,
)

# One statement's work is bounded, so that no stream waits long for the others' share.
_MAX_TASKS = 4_096
_MAX_REQUESTS = 64
_MAX_BYTES = 16 * 1024 * 1024
# Lanes read by one request: all priorities and kinds that compete, up to this many.
_MAX_LANES = 32
# A request reads so many lanes that each one known to have more gives about so many tasks: to read
# a lane costs the database as much as a few tasks.
_LANE_TASKS = 32
# So many times a plan goes on to other lanes because limits leave no room in those it chose.
_MAX_LOOKS = 4

GroupKey = tuple[frozenset[str], frozenset[str], int | None]


class LaneState:
    """What this server believes about a lane."""

    __slots__ = (
        "average_bytes",
        "cursor",
        "groups",
        "has_more",
        "lane",
        "ready",
        "sweep_start",
        "taken",
        "wakes",
    )

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        # Everything up to this position has been read.
        self.cursor = 0
        # Where the next sweep begins to look for what was missed behind the cursor.
        self.sweep_start = 0
        # Whether there may be tasks after the cursor.
        self.ready = False
        # Whether the last request gave all it was asked for and this lane its full share of it.
        self.has_more = False
        # Tasks granted by the request whose outcome is being entered.
        self.taken = 0
        # Counts wake-ups, so that a round can tell whether one came while it was under way.
        self.wakes = 0
        # Payload size, to bound the memory of one grant; starts high until known.
        self.average_bytes = 65_536.0
        self.groups: list[Group] = []

    def wake(self, position: int) -> None:
        """Tasks may be available from this position on."""
        if position <= self.cursor:
            self.cursor = position - 1
        self.wakes += 1
        if not self.ready:
            self.ready = True
            for group in self.groups:
                group.ready[self.lane.lane_id] = self

    def rest(self) -> None:
        """Nothing is available after the cursor."""
        if self.ready:
            self.ready = False
            for group in self.groups:
                group.ready.pop(self.lane.lane_id, None)

    def swept(self, found: SweptLane, wakes: int) -> None:
        """A sweep looked at the lane, from where the cursor was after so many wake-ups.

        It may move the cursor on only if none came since: the task of a wake-up may lie between.
        """
        self.sweep_start = found.next_start
        if found.behind is not None:
            self.wake(found.behind)
        if found.ahead is not None:
            # What a grant has read in the meantime is no news.
            self.wake(max(found.ahead, self.cursor + 1))
        elif found.passed is not None and self.wakes == wakes:
            self.cursor = max(self.cursor, found.passed)

    def read(self, position: int, count: int, payload_bytes: int) -> None:
        """So many tasks up to this position were granted."""
        if position > self.cursor:
            self.cursor = position
        self.taken += count
        self.average_bytes += (payload_bytes / count - self.average_bytes) * (1 - 0.95**count)


@dataclass
class Group:
    """Streams with one subscription."""

    sessions: dict[str, Session] = field(default_factory=dict)
    # Sessions that may have room, in the order in which they asked.
    hungry: dict[str, Session] = field(default_factory=dict)
    # Lanes that may have tasks; those whose queue was read the longest time ago come first.
    ready: dict[int, LaneState] = field(default_factory=dict)


@dataclass(slots=True)
class Request:
    """A planned request."""

    grant: GrantRequest
    group: Group
    # sessions[place] is the stream behind the request's workers[place].
    sessions: list[Session]
    # How many places each of these sessions keeps free for the grant.
    shares: list[int]
    lanes: list[LaneState]
    # The lanes' wake-up counts when the request was made.
    wakes: list[int]


class Planner:
    """Streams, lanes and limits as this server believes them to be."""

    def __init__(self, book: SessionBook) -> None:
        self._book = book
        self.lanes: dict[int, LaneState] = {}
        self.limits: dict[str, QueueLimits] = {}
        self._groups: dict[GroupKey, Group] = {}
        # Streams with room whose principal has none, in the order in which they found out. Every
        # plan looks whether it has again: an answer on one stream makes room for all of them.
        self._held_back: dict[Allowance, dict[str, Session]] = {}

    def join(self, session: Session) -> None:
        """A stream subscribed."""
        key = _key(session)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group()
            for state in self.lanes.values():
                if session.takes(state.lane):
                    _attach(group, state)
        group.sessions[session.session_id] = session
        group.hungry[session.session_id] = session

    def part(self, session: Session) -> None:
        """A stream is gone."""
        key = _key(session)
        group = self._groups.get(key)
        if group is None:
            return
        group.sessions.pop(session.session_id, None)
        group.hungry.pop(session.session_id, None)
        if session.allowance is not None:
            self._held_back.get(session.allowance, {}).pop(session.session_id, None)
        if not group.sessions:
            del self._groups[key]
            for state in self.lanes.values():
                if group in state.groups:
                    state.groups.remove(group)

    def demand(self, session: Session) -> None:
        """A stream may have room."""
        if session.allowance is not None and session.allowance in self._held_back:
            # Others of its principal wait longer.
            self._hold_back(session)
            return
        group = self._groups.get(_key(session))
        if group is not None and session.session_id in group.sessions:
            group.hungry[session.session_id] = session

    def add_lane(self, lane: Lane) -> None:
        """A lane became known; it may have tasks."""
        state = self.lanes[lane.lane_id] = LaneState(lane)
        for group in self._groups.values():
            if next(iter(group.sessions.values())).takes(lane):
                _attach(group, state)
        state.wake(1)

    def places(self) -> list[LanePlace]:
        """How far each lane has been read, for a sweep."""
        return [
            LanePlace(lane_id, state.cursor, state.sweep_start)
            for lane_id, state in self.lanes.items()
        ]

    def set_limits(self, limits: dict[str, QueueLimits]) -> None:
        """Takes the queues' limits as just read; wakes those that were eased."""
        eased = {
            name
            for name, old in self.limits.items()
            if (new := limits.get(name)) != old and not (new and new.paused)
        }
        self.limits = limits
        self.wake_queues(eased)

    def wake_queues(self, queues: Iterable[str]) -> None:
        """Limits of these queues may have room."""
        wanted = set(queues)
        if not wanted:
            return
        for state in self.lanes.values():
            if state.lane.queue in wanted:
                state.wake(state.cursor + 1)
        for group in self._groups.values():
            group.hungry.update(group.sessions)

    def may_have_tasks(self, session: Session) -> bool:
        """Whether any lane the stream takes may have a task for it now."""
        group = self._groups.get(_key(session))
        return group is not None and any(
            self._room(session, state) > 0 for state in group.ready.values()
        )

    def plan(self) -> list[Request]:
        """The next requests; none if nothing can be granted."""
        self._let_go()
        requests: list[Request] = []
        served: list[GroupKey] = []
        budget = _MAX_TASKS
        for key, group in self._groups.items():
            if budget <= 0 or len(requests) >= _MAX_REQUESTS:
                break
            if group.hungry and group.ready:
                planned = self._plan_group(group, budget, _MAX_REQUESTS - len(requests))
                budget -= sum(request.grant.wanted for request in planned)
                requests += planned
                served.append(key)
        for key in served:
            # The groups that were not reached come first next time.
            self._groups[key] = self._groups.pop(key)
        return requests

    def offer(self, lane_ids: Iterable[int], count: int) -> list[Request]:
        """Requests that take tasks which are just being stored in these lanes.

        For a group of streams that waits with nothing else to take; others get them in their turn.
        """
        states = [self.lanes[lane_id] for lane_id in lane_ids if lane_id in self.lanes]
        for group in self._groups.values():
            fit = [state for state in states if group in state.groups]
            if fit and group.hungry and not group.ready and len(fit) <= _MAX_LANES:
                return self._requests(group, fit, count, 1)
        return []

    def granted(self, request: Request, count: int) -> None:
        """The request brought so many tasks."""
        self._unreserve(request)
        is_short = count < request.grant.wanted
        full_share = count / len(request.lanes)
        for state, wakes in zip(request.lanes, request.wakes, strict=True):
            state.has_more = not is_short and state.ready and state.taken >= full_share
            state.taken = 0
            # What woke a lane while the statement ran may have come too late for its snapshot.
            if is_short and state.wakes == wakes:
                state.rest()
        for session in request.sessions:
            if session.room:
                request.group.hungry[session.session_id] = session

    def unplan(self, requests: Iterable[Request]) -> None:
        """The requests failed; their streams still wait."""
        for request in requests:
            self._unreserve(request)
            for session in request.sessions:
                request.group.hungry[session.session_id] = session

    @staticmethod
    def _unreserve(request: Request) -> None:
        for session, share in zip(request.sessions, request.shares, strict=True):
            session.reserve(-share)

    def _hold_back(self, session: Session) -> None:
        """The stream has nothing to ask for: it is full, or its principal is."""
        if session.allowance is not None and session.room:
            self._held_back.setdefault(session.allowance, {})[session.session_id] = session

    def _let_go(self) -> None:
        """Streams whose principal has room again may ask."""
        for allowance in [each for each in self._held_back if each.room > 0]:
            for session in self._held_back.pop(allowance).values():
                self.demand(session)

    def _plan_group(self, group: Group, budget: int, slots: int) -> list[Request]:
        queues = self._open_queues(group)
        for _ in range(_MAX_LOOKS):
            if not queues or not group.hungry:
                break
            lanes = self._choose_lanes(group, queues, budget)
            if requests := self._requests(group, lanes, budget, slots):
                return requests
            # The limits of these queues leave no room to those who want: the next ones may.
        return []

    def _requests(
        self, group: Group, lanes: list[LaneState], budget: int, slots: int
    ) -> list[Request]:
        limited = any(
            (limits := self.limits.get(state.lane.queue)) is not None
            and limits.per_worker is not None
            for state in lanes
        )
        bound = max(1, int(_MAX_BYTES / max(1.0, max(s.average_bytes for s in lanes))))
        budget = min(budget, bound)
        if not limited:
            request = self._request_for_many(group, lanes, budget)
            return [request] if request is not None else []
        return list(self._requests_by_worker(group, lanes, budget, slots))

    def _request_for_many(
        self, group: Group, lanes: list[LaneState], budget: int
    ) -> Request | None:
        sessions: list[Session] = []
        shares: list[int] = []
        for session in _pop_all(group.hungry):
            if budget <= 0:
                group.hungry[session.session_id] = session
            elif session.demand:
                shares.append(min(session.demand, budget))
                budget -= shares[-1]
                session.reserve(shares[-1])
                sessions.append(session)
            else:
                self._hold_back(session)
        if not sessions:
            return None
        return _request(group, sessions, shares, lanes)

    def _requests_by_worker(
        self, group: Group, lanes: list[LaneState], budget: int, slots: int
    ) -> Iterable[Request]:
        for session in _pop_all(group.hungry):
            if budget <= 0 or slots <= 0:
                group.hungry[session.session_id] = session
                continue
            open_lanes = [state for state in lanes if self._room(session, state) > 0]
            rooms = {state.lane.queue: self._room(session, state) for state in open_lanes}
            wanted = min(session.demand, budget, sum(rooms.values()))
            if wanted > 0:
                budget -= wanted
                slots -= 1
                session.reserve(wanted)
                yield _request(group, [session], [wanted], open_lanes)
            elif session.demand:
                # The limits leave no room now; another queue may yet have something.
                group.hungry[session.session_id] = session
            else:
                self._hold_back(session)

    def _room(self, session: Session, state: LaneState) -> int:
        """How many tasks of the lane's queue the limits leave to the stream's worker."""
        limits = self.limits.get(state.lane.queue)
        if limits is None:
            return _MAX_TASKS
        if limits.paused:
            return 0
        if limits.per_worker is None:
            return _MAX_TASKS
        return limits.per_worker - self._book.held_by_worker(session.worker_id, state.lane.queue)

    def _choose_lanes(
        self, group: Group, queues: deque[list[LaneState]], budget: int
    ) -> list[LaneState]:
        """Takes lanes to read from the first queues; a queue's lanes by priority.

        No more than it takes for what the group wants: lanes known to have more count, the others
        may turn out empty or their limit full. A queue that does not fit whole loses its lowest
        priorities only: they come when the higher ones are exhausted.
        """
        wanted = min(budget, sum(session.demand for session in group.hungry.values()))
        chosen: list[LaneState] = []
        expected = 0
        while queues:
            states = sorted(queues[0], key=_by_priority)
            room = _MAX_LANES - len(chosen)
            if chosen and (len(states) > room or expected >= wanted):
                break
            queues.popleft()
            limits = self.limits.get(states[0].lane.queue)
            is_limited = limits is not None and limits.per_worker is not None
            last = states[min(room, len(states)) - 1].lane.priority
            for state in states:
                group.ready[state.lane.lane_id] = group.ready.pop(state.lane.lane_id)
                if state.lane.priority >= last:
                    chosen.append(state)
                    expected += _LANE_TASKS if state.has_more and not is_limited else 0
        return chosen

    def _open_queues(self, group: Group) -> deque[list[LaneState]]:
        """The ready lanes of each queue that is not paused, in the order of their turn."""
        by_queue: dict[str, list[LaneState]] = {}
        for state in group.ready.values():
            limits = self.limits.get(state.lane.queue)
            if limits is None or not limits.paused:
                by_queue.setdefault(state.lane.queue, []).append(state)
        return deque(by_queue.values())


def _by_priority(state: LaneState) -> int:
    return -state.lane.priority


def _key(session: Session) -> GroupKey:
    return (session.queues, session.kinds, session.lease_ms)


def _attach(group: Group, state: LaneState) -> None:
    state.groups.append(group)
    if state.ready:
        group.ready[state.lane.lane_id] = state


def _pop_all(hungry: dict[str, Session]) -> list[Session]:
    sessions = list(hungry.values())
    hungry.clear()
    return sessions


def _spread(shares: list[int]) -> list[int] | None:
    """Places in turn, so that few tasks reach many streams: [2, 1] is [0, 1, 0]."""
    if len(shares) == 1:
        return None
    places: list[int] = []
    for turn in range(max(shares)):
        places += [place for place, share in enumerate(shares) if share > turn]
    return places


def _request(
    group: Group,
    sessions: list[Session],
    shares: list[int],
    lanes: list[LaneState],
) -> Request:
    grant = GrantRequest(
        [state.lane.lane_id for state in lanes],
        [state.cursor for state in lanes],
        [session.worker_id for session in sessions],
        sum(shares),
        _spread(shares),
        sessions[0].lease_ms,
    )
    return Request(grant, group, sessions, shares, lanes, [state.wakes for state in lanes])
