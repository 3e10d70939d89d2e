"""Who calls, and what they may do: principals, roles and scopes.

A principal is whoever a bearer token names. Without tokens everybody is ANYBODY, who may do all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from workerqueue_server.queue.errors import OutOfScope, Violation


class Role(StrEnum):
    """What a principal is there for; the RPCs of each stand in `rpc.methods`."""

    PRODUCER = "producer"
    """Enqueues tasks, and looks after those that it may enqueue."""
    WORKER = "worker"
    """Leases tasks and answers for them."""
    OPERATOR = "operator"
    """Calls everything of WorkerQueueAdmin. Has no scope."""


class Names:
    """A set of names: exact ones, and all that begin with what stands before a ``*``.

    Empty means every name.
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self.patterns = tuple(patterns)
        self._exact = frozenset(pattern for pattern in patterns if not pattern.endswith("*"))
        self._prefixes = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))

    def __contains__(self, name: str) -> bool:
        return not self.patterns or name in self._exact or name.startswith(self._prefixes)

    def __bool__(self) -> bool:
        """Whether it leaves any name out."""
        return bool(self.patterns)

    def __str__(self) -> str:
        return ", ".join(self.patterns)


ANY_NAME = Names()


@dataclass(frozen=True, slots=True)
class Scope:
    """The tasks that a principal may touch: those whose queue and whose kind are both in it."""

    queues: Names = ANY_NAME
    kinds: Names = ANY_NAME

    def __bool__(self) -> bool:
        """Whether it leaves any task out."""
        return bool(self.queues) or bool(self.kinds)

    def has(self, queue: str, kind: str) -> bool:
        """Whether tasks of this queue and kind are in it."""
        return queue in self.queues and kind in self.kinds


EVERYTHING = Scope()


@dataclass(frozen=True, slots=True, eq=False)
class Principal:
    """A caller.

    Attributes:
        key: Tells principals apart, for limits and for leases: the token's id; empty for ANYBODY
            and NOBODY.
        name: For people and logs.
        roles: What it may do.
        scope: With which tasks.
    """

    key: str
    name: str
    roles: frozenset[Role]
    scope: Scope = EVERYTHING

    @property
    def label(self) -> str:
        """How messages and logs name it."""
        return f"token {self.name!r} ({self.key})" if self.key else self.name

    def check_new_task(self, queue: str, kind: str) -> None:
        """Raises OutOfScope with the fields if it may not enqueue such a task."""
        if self.scope.has(queue, kind):
            return
        violations = []
        if queue not in self.scope.queues:
            violations.append(_outside("options.queue", "queue", queue, self.scope.queues))
        if kind not in self.scope.kinds:
            violations.append(_outside("payload", "kind", kind, self.scope.kinds))
        raise OutOfScope(violations)

    def check_subscription(self, queues: Sequence[str], kinds: Sequence[str]) -> None:
        """Raises OutOfScope unless all that such a subscription takes is in the scope.

        A subscription without queues takes from any: who has a scope must name them.
        """
        violations: list[Violation] = []
        for field, what, names, allowed in (
            ("subscribe.queues", "queue", queues, self.scope.queues),
            ("subscribe.kinds", "kind", kinds, self.scope.kinds),
        ):
            if allowed and not names:
                violations.append(
                    Violation(field, f"must be named: the token's scope is {allowed}")
                )
            violations += [
                _outside(f"{field}[{place}]", what, name, allowed)
                for place, name in enumerate(names)
                if name not in allowed
            ]
        if violations:
            raise OutOfScope(violations)


ANYBODY = Principal("", "anybody", frozenset(Role))
"""Every caller of a server that wants no tokens."""

NOBODY = Principal("", "nobody", frozenset())
"""Who calls, without a token, what is open to all."""


def _outside(field: str, what: str, name: str, allowed: Names) -> Violation:
    return Violation(field, f"{what} {name!r} is not in the token's scope: {allowed}")
