"""The command line of the benchmark."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import click
from rich.console import Console

from bench import peers
from bench.chart import as_svg
from bench.environment import describe
from bench.measuring import measure
from bench.model import Plan, Result, Scenario
from bench.report import as_json, as_table, further_lines
from bench.scenarios import GROUPS, SCENARIOS
from bench.stage import StageError, cluster


def _list_scenarios(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        for group in GROUPS:
            click.echo(f"{group}:")
            for scenario in SCENARIOS.values():
                if scenario.group == group:
                    beside = f"(beside: {scenario.beside})"
                    click.echo(f"  {scenario.name:20}{scenario.title} {beside}")
        context.exit()


def _chosen(names: tuple[str, ...]) -> list[Scenario]:
    """The scenarios by name or group, each once; by default the quick ones."""
    wanted = names or ("throughput", "latency")
    return [s for s in SCENARIOS.values() if s.name in wanted or s.group in wanted]


@click.command()
@click.argument(
    "names",
    metavar="[SCENARIO|GROUP]...",
    nargs=-1,
    type=click.Choice([*SCENARIOS, *GROUPS]),
)
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_list_scenarios)
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1), help="Samples.")
@click.option("--tasks", default=100_000, show_default=True, type=click.IntRange(1_000))
@click.option("--window", default=4_000, show_default=True, help="What a worker may hold at once.")
@click.option("--in-flight", type=click.IntRange(1), help="Calls in flight [by scenario].")
@click.option("--processes", default=1, show_default=True, help="Server processes.")
@click.option("--minutes", default=0.0, help="How long memory-speed goes on.")
@click.option(
    "--stock",
    default=1_000_000,
    show_default=True,
    type=click.IntRange(1_000),
    help="Tasks present beside the measured ones in the flat scenarios; a tenth of them with keys.",
)
@click.option("--dsn", help="A PostgreSQL to measure on; without it an embedded one is started.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write results here.")
@click.option("--chart", type=click.Path(path_type=Path), help="Draw the ratios here, as SVG.")
@click.option(
    "--peers",
    "with_peers",
    is_flag=True,
    help="Install other queues into .bench-peers and measure them on the same PostgreSQL.",
)
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
    minutes: float,
    stock: int,
    dsn: str | None,
    json_file: Path | None,
    chart: Path | None,
    with_peers: bool,
    profile: Path | None,
) -> None:
    """Measure the queue and, beside it, the same work in plain SQL or without a pressure.

    Each sample is taken in turns with what it is held against, on the same PostgreSQL, so that the
    ratio says something on a machine that is busy with other things too. The first, smaller sample
    is a warm-up and is not counted. Without names: throughput and latency.
    """
    # What was started must also be stopped when this process is asked to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if profile is not None:
        profile.mkdir(parents=True, exist_ok=True)
    plan = Plan(tasks, window, in_flight, minutes, stock)
    results: list[Result] = []
    compared: list[peers.Comparison] = []
    try:
        with cluster(dsn) as admin_dsn:
            environment = describe(admin_dsn)
            click.echo("; ".join(f"{name} {value}" for name, value in environment.items()))

            def note() -> None:
                # After each scenario: what was measured is kept, whatever becomes of the next.
                if json_file is not None:
                    json_file.write_text(_as_json(environment, results, compared))
                if chart is not None:
                    chart.write_text(as_svg(results, environment))

            if with_peers:
                compared += peers.compare(admin_dsn, tasks, repeats, _tell)
                note()
            for scenario in _chosen(names) if names or not with_peers else ():
                results.append(
                    measure(scenario, plan, repeats, processes, admin_dsn, _tell, profile)
                )
                note()
    except StageError as error:
        raise click.ClickException(str(error)) from error
    _show(results, compared)


def _tell(line: str) -> None:
    click.echo(line, err=True)


def _show(results: list[Result], compared: list[peers.Comparison]) -> None:
    console = Console(width=None if Console().is_terminal else 140)
    if compared:
        console.print(peers.as_table(compared))
    for comparison in compared:
        click.echo(f"{comparison.name}: {comparison.settings}")
    if results:
        console.print(as_table(results))
    for result in results:
        for line in further_lines(result):
            click.echo(line)


def _as_json(
    environment: dict[str, str], results: list[Result], compared: list[peers.Comparison]
) -> str:
    report = {
        "environment": environment,
        "results": [as_json(result) for result in results],
        "peers": [peers.as_json(comparison) for comparison in compared],
    }
    return json.dumps(report, indent=2) + "\n"


if __name__ == "__main__":
    main()
