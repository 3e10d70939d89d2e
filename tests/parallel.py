"""How tests are dealt to the processes that run side by side (`pytest -n`).

A file is one piece of work, because its tests share a server and a database. Files with slow tests
come first: what is dealt last must be short, or one process works alone at the end.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# Their tests share nothing and take long, so that each is a piece of work of its own.
_SINGLE_TESTS = ("tests/chaos/", "tests/interop/test_conformance.py")


class FileByFile(LoadScopeScheduling):  # type: ignore[misc]  # xdist ships no types
    """Deals files in the order of the collection."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(_SINGLE_TESTS) else nodeid.partition("::")[0]


def slow_files_first(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The tests in an order that leaves short work for the end; the order within a file stays."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    return sorted(items, key=lambda item: item.path not in slow)


def processes() -> int:
    """How many processes `-n auto` starts: much of what tests do is wait for other processes."""
    return (os.cpu_count() or 1) + 1
