"""Visits every state that a specification can reach, and says how a bad one is reached."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

S = TypeVar("S", bound=Hashable)


class Step(NamedTuple, Generic[S]):
    """What may happen next."""

    name: str
    state: S
    # Whether it is nobody's duty: nothing may depend on its ever happening.
    is_fault: bool = False
    # What must never happen, if this does.
    wrong: str = ""


class Violation(Exception):
    """An invariant does not hold; the message is the shortest way there."""


@dataclass
class Explorer(Generic[S]):
    """Breadth first, so that the first violation found is among the shortest."""

    start: S
    steps: Callable[[S], Iterable[Step[S]]]
    # What is wrong with a state; empty: nothing.
    wrong: Callable[[S], str]
    is_done: Callable[[S], bool]
    _from: dict[S, tuple[S, str] | None] = field(default_factory=dict)
    # States by their successors, over steps that somebody must take some day.
    _before: dict[S, list[S]] = field(default_factory=dict)
    transitions: int = 0

    def explore(self) -> int:
        """The number of states. Raises Violation."""
        self._from[self.start] = None
        ahead = deque([self.start])
        while ahead:
            state = ahead.popleft()
            if problem := self.wrong(state):
                raise Violation(self._trace(state, problem))
            for name, after, is_fault, problem in self.steps(state):
                self.transitions += 1
                if problem:
                    raise Violation(self._trace(state, problem, name))
                if after not in self._from:
                    self._from[after] = (state, name)
                    ahead.append(after)
                if not is_fault:
                    self._before.setdefault(after, []).append(state)
        self._look_for_stuck_states()
        return len(self._from)

    def _look_for_stuck_states(self) -> None:
        """From every state all work can be done, without a fault that comes to help."""
        reached = {state for state in self._from if self.is_done(state)}
        ahead = list(reached)
        while ahead:
            for before in self._before.get(ahead.pop(), ()):
                if before not in reached:
                    reached.add(before)
                    ahead.append(before)
        for state in self._from:
            if state not in reached:
                raise Violation(self._trace(state, "from here the work is never done"))

    def _trace(self, state: S, problem: str, last: str = "") -> str:
        lines = [f"   {state}"]
        step = self._from[state]
        while step is not None:
            before, name = step
            lines += [f"-> {name}", f"   {before}"]
            step = self._from[before]
        lines.reverse()
        return "\n".join([problem, *lines, *([f"-> {last}"] if last else [])])
