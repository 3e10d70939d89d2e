"""``workerqueue conformance``."""

from __future__ import annotations

import asyncio
import shlex
import sys
import tempfile
from pathlib import Path

import click

from workerqueue_server.cli.conformance.kit import Kit, Result, run
from workerqueue_server.cli.conformance.scenarios import SCENARIOS, Scenario
from workerqueue_server.cli.conformance.servers import CannotRun
from workerqueue_server.cli.conformance.stage import Commands
from workerqueue_server.store.errors import StoreError

_NAMES = [scenario.name for scenario in SCENARIOS]
_FAILED = 1
_CANNOT_RUN = 3


@click.command()
@click.option("--command", "worker", metavar="COMMAND", help="Starts the worker to test.")
@click.option("--producer", metavar="COMMAND", help="Starts the producer to test.")
@click.option(
    "--scenario",
    "names",
    multiple=True,
    type=click.Choice(_NAMES),
    metavar="NAME",
    help="Run this scenario only; repeatable.",
)
@click.option("--list", "list_only", is_flag=True, help="List the scenarios and exit.")
@click.option(
    "--dsn",
    help="A scratch PostgreSQL database to use instead of an embedded one; the kit leaves its "
    "tables and tasks there.",
)
def conformance(
    worker: str | None,
    producer: str | None,
    names: tuple[str, ...],
    list_only: bool,
    dsn: str | None,
) -> None:
    """Test a worker program in any language against the protocol.

    Starts real servers, runs the program once per scenario and prints what passed. The program's
    contract is in docs/worker-protocol.md. Exit code 0: all passed; 1: some failed.
    """
    if list_only:
        for scenario in SCENARIOS:
            click.echo(f"{scenario.name:<18}{scenario.demand}")
        return
    if worker is None and producer is None:
        raise click.UsageError("name the program to test with --command (or --producer)")
    commands = Commands(shlex.split(worker or ""), shlex.split(producer or ""))
    chosen = [
        scenario
        for scenario in SCENARIOS
        if (not names or scenario.name in names)
        and (commands.producer if scenario.of_producer else commands.worker)
    ]
    if not chosen:
        raise click.UsageError("none of the scenarios can run with what is given")
    try:
        results = asyncio.run(_run(commands, chosen, dsn))
    except (CannotRun, StoreError) as error:
        click.echo(f"workerqueue: {error}", err=True)
        sys.exit(_CANNOT_RUN)
    failed = [result for result in results if result.problem]
    passed = len(results) - len(failed)
    click.echo(f"\n{passed} passed, {len(failed)} failed")
    sys.exit(_FAILED if failed else 0)


async def _run(commands: Commands, scenarios: list[Scenario], dsn: str | None) -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="workerqueue-conformance-") as name:
        folder = Path(name)
        async with Kit.running(folder, dsn) as kit:
            return await run(kit, scenarios, commands, folder, _print)


def _print(result: Result) -> None:
    verdict = "FAIL" if result.problem else "pass"
    click.echo(f"{verdict}  {result.scenario.name:<18}{result.seconds:6.1f} s  {result.problem}")
    for line in result.complaints:
        click.echo(f"      | {line}")
