"""Flags for the server's settings, made from the settings themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from workerqueue_server.app.configuration import CONFIG_VARIABLE, Configuration, SettingsError, load
from workerqueue_server.app.settings import Settings, about, choices_of, flag_of, variable_of
from workerqueue_server.cli.exits import Exit
from workerqueue_server.cli.failures import Failure

Command = TypeVar("Command", bound=Callable[..., Any])

_config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"A TOML file with settings; flags and environment win over it. [{CONFIG_VARIABLE}]",
)


def settings_flags(*names: str) -> Callable[[Command], Command]:
    """Adds ``--config`` and the flags of the named settings; without names, of all."""

    def add(command: Command) -> Command:
        for name in reversed(names or tuple(Settings.model_fields)):
            command = _option(name)(command)
        return _config_option(command)

    return add


def read_settings(flags: dict[str, Any], *, to_listen: bool = False) -> Configuration:
    """The effective settings under these flags; wrong ones end the command with Exit.USAGE.

    ``to_listen``: also those under which a server would be open to strangers.
    """
    values = dict(flags)
    config_file = values.pop("config_file", None)
    try:
        configuration = load(values, config_file)
        if to_listen:
            configuration.refuse_exposure()
    except SettingsError as error:
        raise Failure(str(error), Exit.USAGE) from None
    for warning in configuration.warnings:
        click.echo(f"workerqueue: warning: {warning}", err=True)
    return configuration


def _option(name: str) -> Callable[[Command], Command]:
    field = Settings.model_fields[name]
    flag = flag_of(name)
    help_text = f"{_plain(field.description or '')} [{variable_of(name)}]"
    if field.annotation is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=help_text)
    if choices := choices_of(field):
        # Checked with the other settings, so that every source has the same message.
        return click.option(flag, name, metavar="|".join(choices), help=help_text)
    multiple = isinstance(field.default, tuple)
    return click.option(
        flag, name, multiple=multiple, metavar=about(name)["metavar"], help=help_text
    )


def _plain(markdown: str) -> str:
    return markdown.replace("`", "")
