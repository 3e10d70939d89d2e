"""The model notices a broken promise: each test breaks one in the database, and must see it.

A comparison that nothing can upset proves nothing. The functions are changed as the server runs,
and restored afterwards. `scripts/test -m soak tests/model/test_mutants.py` takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import pytest

from tests.model import side_by_side
from tests.model.clock import Clock
from tests.model.directed import DirectedContract
from tests.model.system import System
from tests.postgres import Database

pytestmark = pytest.mark.soak


@dataclass(frozen=True)
class Mutant:
    """A change of a function, the steps that meet it, and what they must see."""

    function: str
    changes: dict[str, str]
    steps: Callable[[DirectedContract], None]
    seen: str


MUTANTS = {
    "anybody's token finishes": Mutant(
        "finish_leases",
        {"and t.lease_id = a.lease_id": "and t.lease_id is not null"},
        lambda machine: machine.answer_late(0, "ack", by_stream=False),
        "OK, not LEASE_LOST",
    ),
    "a release is charged": Mutant(
        "return_leases",
        {"attempt = t.attempt - 1": "attempt = t.attempt"},
        lambda machine: machine.release_all(0, by_stream=False),
        r"attempt: \(1, 3\), not \(0, 3\)",
    ),
    "a key has room for one more": Mutant(
        "admit",
        {
            "greatest(head.concurrency_limit - held.n, 0)": "head.concurrency_limit",
            "r.held + r.rank <= r.concurrency_limit": "r.held + r.rank <= r.concurrency_limit + 1",
        },
        lambda machine: machine.crowd_a_key(0),
        "state: 'available', not 'blocked'",
    ),
    "a cancelled task is finished": Mutant(
        "finish_leases",
        {"and h.state = 'succeeded'": ""},
        lambda machine: machine.answer_after_the_end(0, "ack", "cancel"),
        "OK, not LEASE_LOST",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_model_sees_a_broken_promise(
    name: str,
    system: System,
    clock: Clock,
    clocked_database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mutant = MUTANTS[name]
    clock.make_room()
    whole = DirectedContract(system, clock)
    mutant.steps(whole)
    whole.teardown()
    # What is wrong stays wrong; the message below says whether that was what was seen.
    monkeypatch.setattr(side_by_side, "_SETTLE_SECONDS", 3.0)
    with (
        _mutated(clocked_database, mutant),
        pytest.raises(AssertionError, match=mutant.seen),
    ):
        mutant.steps(DirectedContract(system, clock))


@contextmanager
def _mutated(database: Database, mutant: Mutant) -> Iterator[None]:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        row = connection.execute(
            "select pg_get_functiondef(%s::regproc)", [f"workerqueue.{mutant.function}"]
        ).fetchone()
        assert row is not None
        original = changed = str(row[0])
        for text, other in mutant.changes.items():
            assert changed.count(text) == 1, f"{mutant.function} has no {text!r}"
            changed = changed.replace(text, other)
        connection.execute(changed)
        try:
            yield
        finally:
            connection.execute(original)
