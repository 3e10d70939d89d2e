"""Taking the samples of a scenario: warm-up, turns, and what stands beside each."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from bench.model import Measured, Plan, Result, Sample, Scenario
from bench.stage import Stage, StageError, served

_WARM_UP_SHARE = 0.1
_LEAST_WARM_UP = 100

Tell = Callable[[str], None]


def measure(
    scenario: Scenario,
    plan: Plan,
    repeats: int,
    processes: int,
    admin_dsn: str,
    tell: Tell,
    profile: Path | None = None,
) -> Result:
    """The samples. The first, smaller one is a warm-up and is not counted."""
    sized = scenario.sized(plan)
    share = max(int(sized.tasks * _WARM_UP_SHARE), _LEAST_WARM_UP)
    warm_up = replace(scenario.sized(replace(sized, tasks=share)), minutes=0.0)
    with ExitStack() as stack:
        stage = stack.enter_context(
            served(admin_dsn, scenario.name, scenario.processes or processes)
        )
        beside = stage
        if scenario.takes_turns:
            beside = stack.enter_context(served(admin_dsn, f"{scenario.name}-clean", processes))
        if scenario.pressure is not None:
            tell(f"  {scenario.name}: preparing")
            stack.enter_context(scenario.pressure(stage, plan.stock))
        _sample(scenario, stage, beside, warm_up, "bench-warm-up")
        if profile is not None:
            stack.callback(_record(stage, profile / f"{scenario.name}.txt"))
        samples = []
        for number in range(1, repeats + 1):
            sample = _sample(scenario, stage, beside, sized, f"bench-{number}")
            samples.append(sample)
            tell(
                f"  {scenario.name} {number}/{repeats}: {sample.measured.value:,.2f} "
                f"{scenario.unit}, {sample.ratio:.2f} of {scenario.beside}"
            )
    return Result(scenario, sized.tasks, samples)


def _sample(scenario: Scenario, stage: Stage, beside: Stage, plan: Plan, queue: str) -> Sample:
    reference: Measured
    if scenario.yardstick is not None:
        reference = scenario.yardstick(stage, plan, queue)
    else:
        reference = (scenario.clean or scenario.measure)(beside, plan, queue)
    return Sample(scenario.measure(stage, plan, queue), reference)


def _record(stage: Stage, file: Path) -> Callable[[], None]:
    """Records the server's stacks; the end of it."""
    program = shutil.which("py-spy")
    if program is None:
        raise StageError("--profile needs py-spy on PATH")
    command = [program, "record", "--format", "raw", "--output", os.fspath(file)]
    command += ["--duration", "unlimited", "--pid", str(stage.server.pid)]
    recorder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop() -> None:
        recorder.send_signal(signal.SIGINT)
        recorder.wait()

    return stop
