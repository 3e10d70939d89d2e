"""Whatever bytes arrive: no fault, no leak, no growth, and the server serves on.

`scripts/fuzz --cases 100000` runs as many cases as asked for; without it a few fixed ones run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.fuzz.campaign import METHODS, Campaign
from tests.postgres import Database, PostgresCluster
from tests.servers import ServerProcess

_CASES = int(os.environ.get("WORKERQUEUE_FUZZ_CASES", "0"))
_SEED = int(os.environ.get("WORKERQUEUE_FUZZ_SEED", "1"))
_SHORT = 1_000
_GROWTH_BYTES = 64 * 1024 * 1024


@pytest.fixture(scope="module")
def database(postgres: PostgresCluster) -> Iterator[Database]:
    made = postgres.create_migrated_database()
    yield made
    postgres.drop_database(made)


@pytest.fixture(scope="module")
def server(database: Database) -> Iterator[ServerProcess]:
    with ServerProcess(database.dsn) as server:
        yield server


@pytest.mark.slow
def test_no_bytes_make_the_server_fail_leak_or_grow(
    server: ServerProcess, database: Database
) -> None:
    campaign = Campaign(server, database, _SEED)
    told = 0
    for done in campaign.run(_CASES or _SHORT):
        if _CASES:
            print(done, campaign.sizes[-1], len(campaign.problems), flush=True)  # noqa: T201
            # At once: a run of hours may be broken off.
            for problem in list(campaign.problems.values())[told:]:
                print(problem, flush=True)  # noqa: T201
            told = len(campaign.problems)
    if _CASES:
        for outcome, count in sorted(campaign.outcomes.items()):
            print(f"{count:8} {outcome}")  # noqa: T201
    assert not campaign.problems, "\n".join(campaign.problems.values())
    called = {outcome.partition(" ")[0] for outcome in campaign.outcomes}
    assert called == {method.name for method in METHODS}
    # The first rounds fill caches that have bounds.
    settled, last = campaign.sizes[len(campaign.sizes) // 4], campaign.sizes[-1]
    assert last["memory"] - settled["memory"] < _GROWTH_BYTES, campaign.sizes
    for name in ("files", "threads", "connections"):
        assert last[name] <= settled[name] + 4, (name, campaign.sizes)
