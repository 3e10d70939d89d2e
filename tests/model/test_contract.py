"""The server does what the model says, over random histories of the whole contract.

`WORKERQUEUE_EXPLORE=1 scripts/test -m soak tests/model` looks for new histories for half an hour.
"""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.clock import Clock
from tests.model.directed import DirectedContract
from tests.model.system import System

_COMMON = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
    print_blob=True,
)
SHORT = settings(_COMMON, max_examples=8, stateful_step_count=40)
LONG = settings(_COMMON, max_examples=2_000, stateful_step_count=50)


def _run(system: System, clock: Clock, chosen: settings) -> None:
    clock.make_room()
    machine = partial(DirectedContract, system, clock)
    run_state_machine_as_test(machine, settings=chosen)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_server_follows_the_model(system: System, clock: Clock) -> None:
    _run(system, clock, SHORT)


@pytest.mark.soak
def test_the_server_follows_the_model_for_long(system: System, clock: Clock) -> None:
    _run(system, clock, LONG)
