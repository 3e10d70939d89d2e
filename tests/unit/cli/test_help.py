"""Help answers at once, and every command says what it does."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from workerqueue_server.cli.main import main


def _walk(
    command: click.Command, path: tuple[str, ...]
) -> list[tuple[tuple[str, ...], click.Command]]:
    found = [(path, command)]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            found += _walk(child, (*path, name))
    return found


COMMANDS = _walk(main, ("workerqueue",))


def test_help_imports_nothing_that_only_commands_need() -> None:
    probe = (
        "import sys\n"
        "from workerqueue_server.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    )
    assert "Run a server" in ended.stdout
    heavy = {"grpc", "google.protobuf", "pydantic", "psycopg", "rich", "asyncio", "workerqueue"}
    assert not heavy & set(ended.stderr.split())


@pytest.mark.parametrize("section", main.sections)
def test_the_short_help_of_the_root_is_the_commands_own(section: str) -> None:
    for name, (_, short) in main.sections[section].items():
        command = main.get_command(click.Context(main), name)
        assert command is not None
        assert command.help is not None
        assert short.endswith(".")
        assert len(short) <= 60


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[" ".join(p) for p, _ in COMMANDS])
def test_every_command_and_option_is_explained(
    path: tuple[str, ...], command: click.Command
) -> None:
    assert command.help, path
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, (path, parameter.name)


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[" ".join(p) for p, _ in COMMANDS])
def test_no_command_has_two_options_of_one_name(
    path: tuple[str, ...], command: click.Command
) -> None:
    names = [
        name
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    ]
    assert len(names) == len(set(names)), (path, sorted(names))
