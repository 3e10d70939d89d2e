"""What a check-up finds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "note", "warning", "problem"]

_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "problem": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: `ok`, `note` (worth knowing), `warning` (will hurt one day), `problem` (hurts now).
        check: What was looked at.
        found: What it is like.
        advice: What to do; empty: nothing.
    """

    level: Level
    check: str
    found: str
    advice: str = ""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def print_findings(findings: Iterable[Finding]) -> None:
    """One line each, with the advice below."""
    from rich.text import Text

    from workerqueue_server.cli.output import console

    for finding in findings:
        line = Text(f"{finding.level:<8} ", style=_STYLES[finding.level])
        line.append(f"{finding.check:<16} ", style="not bold default")
        line.append(finding.found, style="not bold default")
        console().print(line)
        if finding.advice:
            console().print(Text(f"{'':26}{finding.advice}", style="dim"))
