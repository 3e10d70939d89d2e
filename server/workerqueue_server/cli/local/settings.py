"""``workerqueue settings``."""

from __future__ import annotations

import json
from typing import Any

import click

from workerqueue_server.app.configuration import Configuration
from workerqueue_server.app.settings_table import settings_table
from workerqueue_server.cli.local.settings_flags import read_settings, settings_flags


@click.command()
@settings_flags()
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "markdown"]),
    default="table",
    show_default=True,
    help="For people, for programs, or the documentation's table of all settings.",
)
def settings(output: str, **flags: Any) -> None:
    """Show the server's effective settings and where each one was set.

    Takes the flags of `serve`, and so shows what `serve` would run with. Passwords are masked.
    """
    if output == "markdown":
        click.echo(settings_table(), nl=False)
        return
    configuration = read_settings(flags, to_listen=True)
    if output == "json":
        click.echo(json.dumps(_facts(configuration), indent=2, ensure_ascii=False))
        return
    _print_table(configuration)


def _facts(configuration: Configuration) -> dict[str, dict[str, Any]]:
    values = configuration.settings.model_dump(mode="json")
    return {
        name: {
            "value": configuration.shown(name) if isinstance(values[name], str) else values[name],
            "source": source,
        }
        for name, source in configuration.sources.items()
    }


def _print_table(configuration: Configuration) -> None:
    from workerqueue_server.cli.output import Column, print_table

    print_table(
        [Column("setting"), Column("value"), Column("set by")],
        [
            (name, configuration.shown(name) or "-", source)
            for name, source in configuration.sources.items()
        ],
    )
