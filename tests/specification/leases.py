"""Leases, fencing, expiry and the hand-over of a concurrency key, as a specification.

The page docs/specification.md says which SQL function each action stands for. Tasks share one key
of limit 1. Servers run transactions as PostgreSQL does (read committed): what one has changed is
locked and unseen by others until it commits. So a transaction is two or three steps here, and
everything else may happen in between: a crash, another server's transaction, the lease clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.specification.explorer import Step

FINAL = ("succeeded", "dead", "cancelled")
HOLDING = ("available", "leased")


class Row(NamedTuple):
    """A task as it is stored."""

    state: str = "new"
    attempt: int = 0
    # The live lease; 0: none. Lease ids of one task rise.
    lease: int = 0
    leases: int = 0
    # The lease clock has passed.
    overdue: bool = False
    # Not stored: how many attempts were begun and not given back unstarted.
    begun: int = 0


Token = tuple[int, int]
Changes = tuple[tuple[int, Row], ...]


class Transaction(NamedTuple):
    """An open one: its changes, and how far it is with handing over the key."""

    name: str
    changes: Changes
    must_admit: bool
    has_lock: bool = False


class Server(NamedTuple):
    """One transaction at a time, and leases granted but not sent."""

    transaction: Transaction | None = None
    unsent: tuple[Token, ...] = ()


class Budget(NamedTuple):
    """How often what is nobody's duty may happen."""

    crashes: int
    repeats: int
    releases: int
    cancels: int


class World(NamedTuple):
    """All there is."""

    rows: tuple[Row, ...]
    servers: tuple[Server, ...]
    # What each worker believes to hold.
    workers: tuple[tuple[Token, ...], ...]
    # Answers on their way: (what, token).
    messages: tuple[tuple[str, Token], ...]
    budget: Budget


@dataclass(frozen=True)
class Specification:
    """The specification; ``without`` leaves a rule out, to see that it is missed.

    fencing           an answer must name the live lease
    key lock          admissions for a key take turns
    lock until commit the key's lock is kept until the commit
    charge            the attempt is charged by the grant
    uncharge          a release takes the charge back
    expiry            leases end by the clock
    admission         whoever ends a lease by the clock hands over the key
    sweep             keys with waiting tasks are looked at now and then
    """

    tasks: int
    budget: Budget
    max_attempts: int = 2
    servers: int = 2
    workers: int = 2
    without: frozenset[str] = field(default_factory=frozenset)

    def start(self) -> World:
        """Nothing is enqueued."""
        return World(
            (Row(),) * self.tasks,
            (Server(),) * self.servers,
            ((),) * self.workers,
            (),
            self.budget,
        )

    def is_done(self, world: World) -> bool:
        """Every task has ended."""
        return all(row.state in FINAL for row in world.rows)

    def wrong(self, world: World) -> str:
        """Which invariant does not hold."""
        rows = world.rows
        if sum(row.state in HOLDING for row in rows) > 1:
            return "the key is held twice"
        # Whoever frees the key passes over a row that somebody has locked who may die. Only the
        # sweep finds that; without a crash it never comes to this.
        quiet = all(server.transaction is None for server in world.servers)
        if quiet and _is_idle(rows) and world.budget.crashes == self.budget.crashes:
            return "the key is free and a task waits for it"
        for row in rows:
            if max(row.attempt, row.begun) > self.max_attempts:
                return "more attempts than the task may have"
            if row.attempt != row.begun:
                return "attempts are not counted right"
            if (row.lease != 0) != (row.state == "leased"):
                return "a lease without a leased task, or a leased task without a lease"
        tokens = [token for worker in world.workers for token in worker]
        if len(tokens) != len(set(tokens)):
            return "two workers have one lease"
        return ""

    def steps(self, world: World) -> Iterator[Step[World]]:
        """Everything that may happen next."""
        for number, server in enumerate(world.servers):
            if server.transaction is None:
                yield from self._begin(world, number)
            else:
                yield from self._go_on(world, number, server.transaction)
            yield from self._deliver(world, number)
            yield from self._crash(world, number)
        yield from self._work(world)
        yield from self._pass_time(world)

    # Transactions: begin, hand over the key, commit.

    def _begin(self, world: World, number: int) -> Iterator[Step[World]]:
        for task, row in enumerate(world.rows):
            # Others wait for a locked row, or skip it: either way they come later.
            if not _is_locked(world, task):
                yield from self._take_up(world, number, task, row)
        if "sweep" not in self.without and _is_idle(world.rows):
            sweep = Transaction("sweep", (), must_admit=True)
            yield Step(f"server {number}: sweeps", _in_transaction(world, number, sweep))
        for place, (what, token) in enumerate(world.messages):
            if not _is_locked(world, token[0]):
                yield from self._take_answer(world, number, place, what, token)

    def _take_up(self, world: World, number: int, task: int, row: Row) -> Iterator[Step[World]]:
        waiting = row._replace(state="blocked")
        if row.state == "new":
            yield self._change(world, number, f"enqueue {task}", task, waiting)
        elif row.state == "retrying":
            yield self._change(world, number, f"promote {task}", task, waiting)
        elif row.state == "available":
            yield self._change(world, number, f"grant {task}", task, self._granted(row), False)
        elif row.overdue and "expiry" not in self.without:
            after, must_admit = self._failed(row), "admission" not in self.without
            yield self._change(world, number, f"expire {task}", task, after, must_admit)
        if world.budget.cancels and row.state not in ("new", *FINAL):
            spent, after = _spent(world, "cancels"), _ended(row, "cancelled")
            cancel = self._change(spent, number, f"cancel {task}", task, after)
            yield cancel._replace(is_fault=True)

    def _granted(self, row: Row) -> Row:
        charged = row.attempt + ("charge" not in self.without)
        return Row("leased", charged, row.leases + 1, row.leases + 1, False, row.begun + 1)

    def _failed(self, row: Row) -> Row:
        """An attempt that did not finish its task."""
        if row.attempt >= self.max_attempts:
            return _ended(row, "dead")
        return row._replace(state="retrying", lease=0, overdue=False)

    def _take_answer(
        self, world: World, number: int, place: int, what: str, token: Token
    ) -> Iterator[Step[World]]:
        task, lease = token
        row = world.rows[task]
        rest = world.messages[:place] + world.messages[place + 1 :]
        taken = world._replace(messages=rest)
        is_live = row.lease == lease
        if not is_live and not ("fencing" in self.without and row.state == "leased"):
            # LEASE_LOST, or OK to a repeat: nothing changes.
            yield Step(f"{what} {token} changes nothing", taken)
            return
        if what == "heartbeat":
            rows = _with(world.rows, task, row._replace(overdue=False))
            yield Step(f"heartbeat {token}", taken._replace(rows=rows))
            return
        after = {"ack": _ended(row, "succeeded"), "fail": self._failed(row)}.get(what)
        if after is None:
            uncharged = row.attempt - ("uncharge" not in self.without)
            after = Row("available", uncharged, 0, row.leases, False, row.begun - 1)
        step = self._change(taken, number, f"{what} {token}", task, after)
        yield step if is_live else step._replace(wrong="a token that is not the live lease ends it")

    def _change(
        self, world: World, number: int, name: str, task: int, row: Row, must_admit: bool = True
    ) -> Step[World]:
        transaction = Transaction(name, ((task, row),), must_admit)
        return Step(f"server {number}: {name}", _in_transaction(world, number, transaction))

    def _go_on(self, world: World, number: int, open_: Transaction) -> Iterator[Step[World]]:
        if open_.must_admit:
            is_taken = any(s.transaction and s.transaction.has_lock for s in world.servers)
            if not is_taken or "key lock" in self.without:
                keeps = not self.without & {"key lock", "lock until commit"}
                admitted = open_._replace(
                    changes=self._admitted(world, open_.changes), must_admit=False, has_lock=keeps
                )
                yield Step(
                    f"server {number}: {open_.name}: hands the key over",
                    _in_transaction(world, number, admitted),
                )
            return
        rows, unsent = world.rows, world.servers[number].unsent
        for task, row in open_.changes:
            rows = _with(rows, task, row)
            if row.lease and row.lease != world.rows[task].lease:
                unsent = (*unsent, (task, row.lease))
        servers = _with(world.servers, number, Server(None, unsent))
        yield Step(
            f"server {number}: {open_.name}: commits", world._replace(rows=rows, servers=servers)
        )

    def _admitted(self, world: World, changes: Changes) -> Changes:
        """What `admit` sees when it has the lock: all that is committed, and its own changes."""
        seen = _with_all(world.rows, changes)
        if any(row.state in HOLDING for row in seen):
            return changes
        for task, row in enumerate(seen):
            is_own = any(task == own for own, _ in changes)
            if row.state != "blocked" or (not is_own and _is_locked(world, task)):
                continue
            others = tuple((own, row) for own, row in changes if own != task)
            return (*others, (task, row._replace(state="available")))
        return changes

    # Servers and workers.

    def _deliver(self, world: World, number: int) -> Iterator[Step[World]]:
        server = world.servers[number]
        for token in server.unsent:
            rest = tuple(t for t in server.unsent if t != token)
            sent = world._replace(
                servers=_with(world.servers, number, server._replace(unsent=rest))
            )
            for worker, held in enumerate(world.workers):
                workers = _with(world.workers, worker, tuple(sorted((*held, token))))
                yield Step(f"worker {worker} gets {token}", sent._replace(workers=workers))
            if world.budget.releases:
                # The stream is gone.
                back = _spent(_sent(sent, "release", token), "releases")
                yield Step(f"{token} is given back", back, True)

    def _crash(self, world: World, number: int) -> Iterator[Step[World]]:
        """What was not committed, or not sent, is gone; another server starts in its place."""
        if world.budget.crashes and world.servers[number] != Server():
            servers = _with(world.servers, number, Server())
            crashed = _spent(world._replace(servers=servers), "crashes")
            yield Step(f"server {number} is killed", crashed, True)

    def _work(self, world: World) -> Iterator[Step[World]]:
        for worker, held in enumerate(world.workers):
            for token in held:
                # It may answer late: nothing here asks whether the lease is alive.
                workers = _with(world.workers, worker, tuple(t for t in held if t != token))
                done = world._replace(workers=workers)
                for what in ("ack", "fail"):
                    answered = _sent(done, what, token)
                    yield Step(f"worker {worker}: {what} {token}", answered)
                    if world.budget.repeats:
                        twice = _spent(_sent(answered, what, token), "repeats")
                        yield Step(f"worker {worker}: {what} {token}, twice", twice, True)
                if world.budget.releases:
                    back = _spent(_sent(done, "release", token), "releases")
                    yield Step(f"worker {worker}: release {token}", back, True)
                beat = ("heartbeat", token)
                if beat not in world.messages and world.rows[token[0]].overdue:
                    yield Step(f"worker {worker}: heartbeat {token}", _sent(world, *beat), True)
            if held and world.budget.crashes:
                workers = _with(world.workers, worker, ())
                killed = _spent(world._replace(workers=workers), "crashes")
                yield Step(f"worker {worker} is killed", killed, True)

    def _pass_time(self, world: World) -> Iterator[Step[World]]:
        for task, row in enumerate(world.rows):
            if row.lease and not row.overdue and not _is_locked(world, task):
                rows = _with(world.rows, task, row._replace(overdue=True))
                yield Step(f"the lease clock of {task} passes", world._replace(rows=rows))


def _ended(row: Row, state: str) -> Row:
    return row._replace(state=state, lease=0, overdue=False)


def _is_idle(rows: tuple[Row, ...]) -> bool:
    """Whether a task waits for the key and none holds it."""
    states = [row.state for row in rows]
    return "blocked" in states and not any(state in HOLDING for state in states)


def _is_locked(world: World, task: int) -> bool:
    return any(
        server.transaction and any(task == changed for changed, _ in server.transaction.changes)
        for server in world.servers
    )


def _in_transaction(world: World, number: int, transaction: Transaction) -> World:
    server = world.servers[number]._replace(transaction=transaction)
    return world._replace(servers=_with(world.servers, number, server))


def _sent(world: World, what: str, token: Token) -> World:
    return world._replace(messages=tuple(sorted((*world.messages, (what, token)))))


def _spent(world: World, what: str) -> World:
    left = getattr(world.budget, what) - 1
    return world._replace(budget=world.budget._replace(**{what: left}))


def _with_all(rows: tuple[Row, ...], changes: Changes) -> tuple[Row, ...]:
    for task, row in changes:
        rows = _with(rows, task, row)
    return rows


def _with(items: tuple, place: int, item: object) -> tuple:  # type: ignore[type-arg]
    return (*items[:place], item, *items[place + 1 :])
