"""Commands and code in the documentation, taken out so that tests can run them.

A block fenced as `console` is a transcript: lines that begin with `$ ` are commands, what follows
is their output. A line of the output that is only `...` stands for any number of lines. What
differs from run to run (ids, times, tokens, durations, ports) need not be the same. A fence such as
```` ```python worker.py ```` names a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_BLOCK = re.compile(r"^```(\w+)(?: ([\w./-]+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)

_VARIABLES = {
    "uuid": r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b",
    "time": r"\b\d{4}-\d\d-\d\dT[\d:.]+Z",
    "token": r"(?<![\w+/])[A-Za-z0-9+/]{32}(?![\w+/])",
    "session": r"\bsession-[0-9a-f]{16}\b",
    "server": r"\bserver-[0-9a-f]{12}\b",
    "address": r"\b127\.0\.0\.1:\d+\b",
    "duration": r"\b[\d,]+(?:\.\d+)? (?=m?s\b)",
    "process": r"\bprocess \d+",
    "worker": r"\bworker-\d(?= \()",
}
_VARIABLE = re.compile("|".join(f"(?P<{name}>{p})" for name, p in _VARIABLES.items()))
_RULE = re.compile(r"[─━]+")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    name: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command of a transcript and what it printed."""

    line: str
    output: str


def blocks(page: str) -> list[Block]:
    """Every fenced block of a page."""
    return [Block(m[1], m[2] or "", m[3]) for m in _BLOCK.finditer(page)]


def commands(block: Block) -> list[Command]:
    """The commands of a transcript, in order."""
    parts = re.split(r"^\$ (.*)\n", block.text, flags=re.MULTILINE)
    return [Command(line, output) for line, output in zip(parts[1::2], parts[2::2], strict=True)]


def matches(printed: str, shown: str) -> bool:
    """Whether a command printed what the documentation shows."""
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "..." else re.escape(line) + r"\n"
        for line in _plain(shown)
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _plain(printed))) is not None


def variables(text: str) -> Iterator[tuple[str, str]]:
    """What differs from run to run: (name, value), in order."""
    for match in _VARIABLE.finditer(text):
        assert match.lastgroup is not None
        yield match.lastgroup, match[0]


def renamed(shown: str, printed: str) -> dict[str, str]:
    """The values that stand in the documentation, with those of this run."""
    now: dict[str, list[str]] = {}
    for name, value in variables(printed):
        now.setdefault(name, []).append(value)
    values: dict[str, str] = {}
    for name, value in variables(shown):
        if now.get(name):
            values[value] = now[name].pop(0)
    return values


def _plain(text: str) -> list[str]:
    """Lines without what differs from run to run."""
    named = _VARIABLE.sub(lambda m: f"<{m.lastgroup}>", text)
    lines = (" ".join(_RULE.sub("─", line).split()) for line in named.splitlines())
    return [line for line in lines if line]
