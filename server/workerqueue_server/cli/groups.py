"""Commands and groups: imported when called, bare groups that list, sections in the help."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NoReturn

import click

from workerqueue_server.cli.exits import Exit
from workerqueue_server.cli.failures import Failure, from_rpc_error

Sections = Mapping[str, Mapping[str, tuple[str, str]]]

# Where commands leave, for the root group, how their output and connection are.
JSON_KEY = "workerqueue.json"
ADDRESS_KEY = "workerqueue.address"
TLS_KEY = "workerqueue.tls"


class RootGroup(click.Group):
    """The root: commands by section, each in a module that is imported when it is called.

    Also the one place where errors become messages and exit codes.
    """

    def __init__(self, *args: Any, sections: Sections, **kwargs: Any) -> None:
        """``sections``: title to command name to (``module:attribute``, short help)."""
        super().__init__(*args, **kwargs)
        self.sections = sections
        self._targets = {name: t for commands in sections.values() for name, t in commands.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the sections."""
        return list(self._targets)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in self._targets:
            return None
        module, _, attribute = self._targets[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As usual, with the nearest names where there is no such command."""
        if args and args[0] not in self._targets and not args[0].startswith("-"):
            _no_such_command(ctx, args[0], self._targets)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands with their short help, section by section."""
        for title, commands in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, text) in commands.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; what goes wrong ends in a message and an exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo(err=True)
            sys.exit(Exit.INTERRUPTED)
        except Failure as failure:
            failure.as_json = bool(ctx.meta.get(JSON_KEY))
            raise
        except Exception as error:
            failed = _failed_call(error, ctx)
            if failed is None:
                raise
            raise failed from error


class ConnectionOption(click.Option):
    """An option of every operator command, listed apart in its help."""


class RemoteCommand(click.Command):
    """A command whose help lists the connection's options apart."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's own options first."""
        own: list[tuple[str, str]] = []
        shared: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                (shared if isinstance(parameter, ConnectionOption) else own).append(record)
        with formatter.section("Options"):
            formatter.write_dl(own)
        with formatter.section("Connection"):
            formatter.write_dl(shared)


class ListingGroup(click.Group):
    """A group whose bare name, or with options only, means its `list` command."""

    command_class = RemoteCommand

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts `list` where no command is named."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As usual, with the nearest names where there is no such command."""
        if args and args[0] not in self.commands:
            _no_such_command(ctx, args[0], self.commands)
        return super().resolve_command(ctx, args)


def _no_such_command(ctx: click.Context, name: str, known: Mapping[str, object]) -> NoReturn:
    near = difflib.get_close_matches(name, known, n=2)
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    raise click.UsageError(f"There is no command {name!r}.{meant}", ctx)


def _failed_call(error: Exception, ctx: click.Context) -> Failure | None:
    grpc = sys.modules.get("grpc")
    if grpc is None or not isinstance(error, grpc.RpcError):
        return None
    failure = from_rpc_error(
        error, ctx.meta.get(ADDRESS_KEY, "the server"), tls=bool(ctx.meta.get(TLS_KEY))
    )
    failure.as_json = bool(ctx.meta.get(JSON_KEY))
    return failure
