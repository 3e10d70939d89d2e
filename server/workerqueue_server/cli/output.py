"""What commands print: tables for people, JSON for programs, progress for who is waiting.

Data goes to standard output, everything else to standard error, so that a pipe carries data alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from rich.console import Console

Format = Literal["table", "json", "jsonl"]

# Wide enough that no cell is cut where a program or a file reads.
_UNLIMITED_WIDTH = 10_000


@dataclass(frozen=True)
class Column:
    """A table's column.

    Attributes:
        title: Its heading.
        right: Whether numbers stand at the right.
        whole: Whether it is never cut, however narrow the terminal is.
    """

    title: str
    right: bool = False
    whole: bool = False


@cache
def console() -> Console:
    """Standard output."""
    from rich.console import Console

    made = Console(highlight=False, soft_wrap=False)
    return made if made.is_terminal else Console(highlight=False, width=_UNLIMITED_WIDTH)


@cache
def error_console() -> Console:
    """Standard error."""
    from rich.console import Console

    return Console(highlight=False, stderr=True)


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> None:
    """Prints rows under headings. Strings are printed as they are, without markup."""
    from rich.text import Text

    table = plain_table(columns)
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    _print_grid(table)


def plain_table(columns: Sequence[Column]) -> Any:
    """An empty table without lines."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(
            column.title.upper(),
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="fold" if column.whole else "ellipsis",
        )
    return table


def print_facts(facts: Iterable[tuple[str, Any]]) -> None:
    """Prints names with their values, one a line; those without a value are left out."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        if value not in (None, ""):
            table.add_row(name, Text(value) if isinstance(value, str) else value)
    _print_grid(table)


def _print_grid(table: Any) -> None:
    if console().is_terminal:
        console().print(table)
        return
    # Cells are filled up with blanks, which nobody wants at the ends of a file's lines.
    with console().capture() as captured:
        console().print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_json(value: Any) -> None:
    """Prints one indented JSON document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_json_line(value: Any) -> None:
    """Prints one JSON document on one line, at once."""
    click.echo(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def say(message: str) -> None:
    """Tells people something that is no data."""
    click.echo(message, err=True)


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Progress]:
    """A progress bar on standard error, if that is a terminal. ``total`` None: not known."""
    if not error_console().is_terminal:
        yield Progress()
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=error_console(), transient=True) as bar:
        yield Progress(bar, bar.add_task(title, total=total))


class Progress:
    """How far it is."""

    def __init__(self, bar: Any = None, task: Any = None) -> None:
        """Without a bar nothing is shown."""
        self._bar = bar
        self._task = task

    def at(self, done: int) -> None:
        """So much is done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
