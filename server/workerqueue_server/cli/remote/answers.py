"""Printing what the server answered, in the form that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from workerqueue_server.cli.connection import Remote
from workerqueue_server.cli.output import print_json, print_json_line


def print_answer(remote: Remote, message: Any, for_people: Callable[[Any], None]) -> None:
    """Prints one message."""
    if remote.output == "table":
        for_people(message)
    elif remote.output == "json":
        print_json(remote.views.json(message))
    else:
        print_json_line(remote.views.json(message))


def print_answers(
    remote: Remote, messages: Iterable[Any], for_people: Callable[[Iterable[Any]], None]
) -> None:
    """Prints any number of messages; as JSON lines, each one as it comes."""
    if remote.output == "table":
        for_people(messages)
    elif remote.output == "json":
        print_json([remote.views.json(message) for message in messages])
    else:
        for message in messages:
            print_json_line(remote.views.json(message))
