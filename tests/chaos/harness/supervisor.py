"""Runs episodes: a stage, faults picked by a seed, a drain, and the check of what came of it.

    python -m tests.chaos.harness.supervisor --minutes 10 --seed 7

Episodes of a run have seeds of their own, derived from the run's. What is found is printed with the
episode's seed; `--episode SEED` runs that one again. The seed fixes stage, faults, targets and
times; what the processes do in between is the machine's, so a repeat meets the same faults and not
always the same moment.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from tests.chaos.harness import faults, network
from tests.chaos.harness.checker import Invariant, Truth, Violation, check
from tests.chaos.harness.fault import Fault
from tests.chaos.harness.history import read_history
from tests.chaos.harness.observer import read_truth
from tests.chaos.harness.processes import FakeClock, SmallDisk
from tests.chaos.harness.report import EpisodeReport, Totals, measure
from tests.chaos.harness.stage import DATABASE, Scale, Stage
from tests.networks import Namespace

FAULTS: dict[type[Fault], int] = {
    faults.KillWorker: 2,
    faults.KillProducer: 1,
    faults.KillServer: 2,
    faults.KillServerAtPoint: 4,
    faults.FreezeServerAtPoint: 2,
    faults.RollingRestart: 1,
    faults.FreezeWorker: 2,
    faults.FreezeServer: 2,
    faults.FreezePostgres: 1,
    faults.KillPostgres: 2,
    faults.RestartPostgres: 1,
    faults.FailOver: 2,
    faults.FreezeStandby: 2,
    faults.TerminateBackends: 2,
    faults.ExhaustConnections: 1,
    faults.LoseNotify: 1,
    faults.FillDisk: 2,
    faults.JumpServerClock: 2,
    faults.JumpDatabaseClock: 2,
    network.Cut: 2,
    network.Delay: 2,
    network.Truncate: 2,
    network.BlackHole: 2,
    network.SilentLink: 3,
    network.Deaf: 1,
    network.Vanish: 1,
    network.Malformed: 1,
}
_EPISODE_SECONDS = 150.0
_MOST_AT_ONCE = 3
_WARM_UP_SECONDS = 4.0
_STANDSTILL_SECONDS = 90.0


@dataclass(frozen=True)
class Plan:
    """One episode: what its seed makes of it."""

    seed: int
    seconds: float
    scale: Scale = field(default_factory=Scale)
    faults: Sequence[type[Fault]] = tuple(FAULTS)
    # Struck first, and alone.
    opening: type[Fault] | None = None


def plan_of(seed: int, seconds: float) -> Plan:
    """The plan of a seed: fake clocks, a small disk, a standby, or nothing special.

    Servers have networks of their own wherever that can be.
    """
    pick = Random(seed)
    scale = Scale(namespaces=Namespace.unavailable() is None)
    sort = pick.choice(("plain", "plain", "clocks", "disk", "standby"))
    if sort == "clocks" and FakeClock.preloaded() is not None:
        scale = replace(scale, fake_clocks=True)
    if sort == "disk" and SmallDisk.unavailable() is None:
        scale = replace(scale, small_disk=True)
    if sort == "standby":
        scale = replace(scale, standby=True)
    return Plan(seed, seconds, scale)


async def run_episode(plan: Plan, folder: Path) -> EpisodeReport:
    """Runs one episode; its history stays in the folder."""
    stage = Stage(folder, plan.scale, plan.seed)
    violations: list[Violation] = []
    truth = Truth()
    try:
        await stage.start()
        await asyncio.sleep(_WARM_UP_SECONDS)
        await _strike(stage, plan)
        if not await stage.drain(_STANDSTILL_SECONDS):
            text = f"the drain stood still for {_STANDSTILL_SECONDS:.0f} s"
            violations.append(Violation(Invariant.DRAINED, text))
        truth = await read_truth(stage.cluster.dsn(DATABASE))
    finally:
        await stage.stop()
    history = read_history(folder)
    violations += check(history, truth)
    for seat in stage.seats:
        if logged := seat.server.faults():
            violations.append(Violation(Invariant.ERRORS, f"{seat.server.name}: {logged[:2_000]}"))
    return EpisodeReport(plan.seed, violations, measure(history))


async def _strike(stage: Stage, plan: Plan) -> None:
    """Faults alone and mixed until the time is up."""
    pick = Random(plan.seed)
    loop = asyncio.get_running_loop()
    end = loop.time() + plan.seconds
    offered = []
    for kind in plan.faults:
        if (reason := kind.unavailable(stage)) is None:
            offered.append(kind)
        else:
            stage.recorder.write("fault", fault=kind.name, phase="left out", reason=reason)
    deck: list[type[Fault]] = []
    if plan.opening is not None:
        await _run(stage, plan.opening(), Random(pick.getrandbits(64)), 1)
    while loop.time() < end:
        if len(deck) < _MOST_AT_ONCE:
            # Cards, not dice: every fault has its turn before any has one too many.
            fresh = [kind for kind in offered for _ in range(FAULTS[kind])]
            pick.shuffle(fresh)
            deck += fresh
        chosen = [deck.pop(0) for _ in range(pick.choice((1, 1, 1, 2, _MOST_AT_ONCE)))]
        async with asyncio.TaskGroup() as group:
            for kind in chosen:
                group.create_task(_run(stage, kind(), Random(pick.getrandbits(64)), len(chosen)))
        await asyncio.sleep(pick.uniform(1, 5))


async def _run(stage: Stage, fault: Fault, pick: Random, at_once: int) -> None:
    stage.recorder.write("fault", fault=fault.name, phase="begin", at_once=at_once)
    struck = await fault.run(stage, pick)
    phase = "healed" if struck else "not struck"
    stage.recorder.write("fault", fault=fault.name, phase=phase, at_once=at_once)


async def run(
    seed: int,
    minutes: float,
    keep: Path | None,
    only: int | None,
    chosen: Sequence[type[Fault]] = tuple(FAULTS),
    figures: Path | None = None,
) -> Totals:
    """Episodes until the time is up (one at least); prints each one's report."""
    totals = Totals(seed)
    seeds = Random(seed)
    end = time.monotonic() + minutes * 60
    while not totals.episodes or time.monotonic() < end - 30:
        episode = only if only is not None else seeds.randrange(1_000_000)
        seconds = min(_EPISODE_SECONDS, max(10.0, end - time.monotonic() - 30))
        folder = Path(tempfile.mkdtemp(prefix=f"workerqueue-chaos-{episode}-"))
        plan = replace(plan_of(episode, seconds), faults=chosen)
        report = await run_episode(plan, folder)
        totals.add(report)
        _say(report.text())
        if figures is not None:
            with figures.open("a") as file:
                file.write(Totals(seed, [report]).as_json() + "\n")
        if report.violations and keep is not None:
            kept = keep / str(episode)
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept)
            _say(f"  its history is in {kept}")
        shutil.rmtree(folder, ignore_errors=True)
    return totals


def _left_out() -> dict[str, str]:
    """What no episode can have on this machine, and why."""
    found = {
        network.SilentLink.name: Namespace.unavailable(),
        faults.FillDisk.name: SmallDisk.unavailable(),
        f"{faults.JumpServerClock.name}, {faults.JumpDatabaseClock.name}": (
            None if FakeClock.preloaded() else "libfaketime is not installed"
        ),
    }
    return {what: reason for what, reason in found.items() if reason is not None}


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """The command line of scripts/chaos."""
    named = {kind.name: kind for kind in FAULTS}
    parser = argparse.ArgumentParser("scripts/chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="how long (default: 10)")
    parser.add_argument("--seed", type=int, default=None, help="default: one of its own")
    parser.add_argument("--episode", type=int, help="run the episode of this seed only")
    parser.add_argument(
        "--fault", action="append", choices=sorted(named), help="these only; may be repeated"
    )
    parser.add_argument("--keep", type=Path, help="a folder for histories with violations")
    parser.add_argument("--json", type=Path, help="append each episode to this file")
    given = parser.parse_args()
    chosen = [named[name] for name in given.fault] if given.fault else tuple(FAULTS)
    seed = given.seed if given.seed is not None else Random().randrange(1_000_000)
    _say(f"seed {seed}")
    for what, reason in _left_out().items():
        _say(f"left out: {what} ({reason})")
    totals = asyncio.run(run(seed, given.minutes, given.keep, given.episode, chosen, given.json))
    _say(totals.text())
    sys.exit(1 if totals.violations else 0)


if __name__ == "__main__":
    main()
