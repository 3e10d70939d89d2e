"""The specification holds in every state it can reach, and misses each rule that is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.specification.explorer import Explorer, Violation
from tests.specification.leases import Budget, Specification, World

# One task with everything that may happen to its leases, and two with one key.
LEASES = Specification(1, Budget(crashes=1, repeats=1, releases=1, cancels=0), max_attempts=2)
KEYS = Specification(
    2, Budget(crashes=1, repeats=0, releases=0, cancels=1), max_attempts=1, workers=1
)
SILENCE = Specification(
    1, Budget(crashes=1, repeats=0, releases=0, cancels=0), max_attempts=1, workers=1
)
# Rules that may be left out, and what is then found.
RULES = {
    "fencing": (LEASES, "a token that is not the live lease ends it"),
    "charge": (LEASES, "attempts are not counted right"),
    "uncharge": (LEASES, "attempts are not counted right"),
    "expiry": (SILENCE, "from here the work is never done"),
    "key lock": (KEYS, "the key is held twice"),
    "lock until commit": (KEYS, "the key is held twice"),
    "admission": (KEYS, "the key is free and a task waits for it"),
    "sweep": (KEYS, "from here the work is never done"),
}


def _explorer(chosen: Specification) -> Explorer[World]:
    return Explorer(chosen.start(), chosen.steps, chosen.wrong, chosen.is_done)


def _without(chosen: Specification, rule: str) -> Specification:
    return Specification(
        chosen.tasks,
        chosen.budget,
        chosen.max_attempts,
        chosen.servers,
        chosen.workers,
        frozenset({rule}),
    )


@pytest.mark.parametrize("chosen", [LEASES, KEYS], ids=["leases", "keys"])
def test_every_reachable_state_is_right_and_leads_to_the_end(chosen: Specification) -> None:
    # So many that it cannot have stopped early, for want of a step.
    assert _explorer(chosen).explore() > 10_000


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_that_is_left_out_is_missed(rule: str) -> None:
    chosen, problem = RULES[rule]
    with pytest.raises(Violation) as found:
        _explorer(_without(chosen, rule)).explore()
    lines = str(found.value).splitlines()
    assert lines[0] == problem
    # The way there, step by step.
    assert lines[1].startswith("   World(")
    assert any(line.startswith("-> ") for line in lines)


def test_the_page_names_every_rule() -> None:
    page = Path(__file__).parents[2] / "docs" / "specification.md"
    text = page.read_text()
    for rule in RULES:
        assert f"| {rule} |" in text
