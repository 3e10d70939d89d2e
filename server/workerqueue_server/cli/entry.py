"""Where ``workerqueue`` begins: it says what is missing where only the client is installed."""

from __future__ import annotations

import sys

from workerqueue_server.cli.exits import Exit


def main() -> None:
    """Runs the command line."""
    try:
        import click  # noqa: F401  # every extra that has the command has click
    except ModuleNotFoundError:
        sys.stderr.write(
            "workerqueue: the server and its command are not installed, only the client: "
            "pip install 'workerqueue[server]'\n"
        )
        sys.exit(Exit.UNREACHABLE)
    from workerqueue_server.cli.main import main as command

    command()
