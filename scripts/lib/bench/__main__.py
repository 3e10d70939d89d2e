"""The command line of the benchmark."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click
from rich.console import Console

from bench.environment import describe
from bench.report import Result, as_table, percentile_line
from bench.scenarios import SCENARIOS, Plan, Sample, Scenario
from bench.stage import Stage, StageError, cluster, served

_WARM_UP_SHARE = 0.1


def _list_scenarios(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        for scenario in SCENARIOS.values():
            click.echo(f"{scenario.name:16}{scenario.title} (beside: {scenario.plain_title})")
        context.exit()


@click.command()
@click.argument("names", metavar="[SCENARIO]...", nargs=-1, type=click.Choice(list(SCENARIOS)))
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_list_scenarios)
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1), help="Samples.")
@click.option("--tasks", default=100_000, show_default=True, type=click.IntRange(1_000))
@click.option("--window", default=4_000, show_default=True, help="What a worker may hold at once.")
@click.option("--in-flight", type=click.IntRange(1), help="Calls in flight [by scenario].")
@click.option("--processes", default=1, show_default=True, help="Server processes.")
@click.option("--dsn", help="A PostgreSQL to measure on; without it an embedded one is started.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write results here.")
@click.option(
    "--profile",
    type=click.Path(path_type=Path, file_okay=False),
    help="Record the server's stacks into this folder with py-spy, which must be on PATH.",
)
def main(
    names: tuple[str, ...],
    repeats: int,
    tasks: int,
    window: int,
    in_flight: int | None,
    processes: int,
    dsn: str | None,
    json_file: Path | None,
    profile: Path | None,
) -> None:
    """Measure the queue and, beside it, the same work in plain SQL.

    Each sample of a scenario is taken right after one of plain SQL on the same PostgreSQL; the
    first, smaller one is a warm-up and is not counted.
    """
    # What was started must also be stopped when this process is asked to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if profile is not None:
        profile.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if Console().is_terminal else 140)
    plan = Plan(tasks, window, in_flight)
    chosen = [SCENARIOS[name] for name in names or SCENARIOS]
    try:
        with cluster(dsn) as admin_dsn:
            environment = describe(admin_dsn)
            click.echo("; ".join(f"{name} {value}" for name, value in environment.items()))
            results = [
                _measure(scenario, plan, repeats, processes, admin_dsn, profile)
                for scenario in chosen
            ]
    except StageError as error:
        raise click.ClickException(str(error)) from error
    console.print(as_table(results))
    for result in results:
        if result.percentiles:
            click.echo(percentile_line(result))
    if json_file is not None:
        report = {"environment": environment, "results": [r.as_json() for r in results]}
        json_file.write_text(json.dumps(report, indent=2) + "\n")


def _measure(
    scenario: Scenario,
    plan: Plan,
    repeats: int,
    processes: int,
    admin_dsn: str,
    profile: Path | None,
) -> Result:
    sized = scenario.sized(plan)
    warm_up = scenario.sized(Plan(int(plan.tasks * _WARM_UP_SHARE), plan.window, plan.in_flight))
    samples: list[Sample] = []
    with served(admin_dsn, scenario.name, processes) as stage:
        scenario.measure(stage, warm_up, "bench-warm-up")
        recorder = _record(stage, profile / f"{scenario.name}.txt") if profile else None
        for number in range(1, repeats + 1):
            sample = scenario.measure(stage, sized, f"bench-{number}")
            samples.append(sample)
            click.echo(
                f"  {scenario.name} {number}/{repeats}: {sample.value:,.2f} {scenario.unit} "
                f"(plain SQL {sample.plain:,.2f})",
                err=True,
            )
        if recorder is not None:
            recorder.send_signal(signal.SIGINT)
            recorder.wait()
    return Result(scenario, sized.tasks, samples)


def _record(stage: Stage, file: Path) -> subprocess.Popen[bytes]:
    recorder = shutil.which("py-spy")
    if recorder is None:
        raise StageError("--profile needs py-spy on PATH")
    command = [recorder, "record", "--format", "raw", "--output", os.fspath(file)]
    command += ["--duration", "unlimited", "--pid", str(stage.server.pid)]
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


if __name__ == "__main__":
    main()
