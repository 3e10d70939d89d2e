"""``workerqueue``: the command line of the server and of its operators.

Only the command that is called is imported, and with it only what it needs: this module and what it
imports must stay free of gRPC, protobuf, pydantic and the database driver.
"""

from __future__ import annotations

import click

from workerqueue_server.cli.groups import RootGroup

_REMOTE = "workerqueue_server.cli.remote"
_LOCAL = "workerqueue_server.cli.local"

_SECTIONS = {
    "Run a server": {
        "dev": (f"{_LOCAL}.dev:dev", "Run a server with a database of its own, to try things."),
        "serve": (f"{_LOCAL}.serve:serve", "Run the server until SIGTERM."),
        "migrate": (f"{_LOCAL}.migrate:migrate", "Bring the database's schema up to date."),
        "settings": (f"{_LOCAL}.settings:settings", "Show the server's effective settings."),
        "token": (f"{_LOCAL}.token:token", "Create, list and revoke bearer tokens."),
    },
    "Work with tasks": {
        "enqueue": (f"{_REMOTE}.enqueue:enqueue", "Store a task, or many."),
        "tasks": (f"{_REMOTE}.tasks:tasks", "List, show, retry, cancel, delete and watch tasks."),
        "dead": (f"{_REMOTE}.dead:dead", "List, retry and purge dead tasks."),
        "schedules": (f"{_REMOTE}.schedules:schedules", "Tasks made by the clock."),
    },
    "Operate": {
        "queues": (f"{_REMOTE}.queues:queues", "List, pause, resume, limit and purge queues."),
        "kinds": (f"{_REMOTE}.kinds:kinds", "List and explain the kinds of task."),
        "workers": (f"{_REMOTE}.workers:workers", "List, drain and resume workers."),
        "top": (f"{_REMOTE}.top:top", "Watch rates, depths and workers live."),
        "health": (f"{_REMOTE}.health:health", "Say whether the server is serving."),
        "doctor": (f"{_LOCAL}.doctor:doctor", "Check server and database, with advice."),
        "bench": (f"{_REMOTE}.bench:bench", "Put a small load on a server and measure it."),
    },
    "Write a worker": {
        "conformance": (
            "workerqueue_server.cli.conformance.command:conformance",
            "Test a worker program in any language against the protocol.",
        ),
    },
    "This command": {
        "completion": (f"{_LOCAL}.completion:completion", "Print a shell's completion script."),
    },
}


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        import workerqueue_server

        click.echo(f"workerqueue {workerqueue_server.__version__}")
        ctx.exit()


@click.group(
    cls=RootGroup,
    sections=_SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 refused or failed, 2 wrong usage or settings, 3 unreachable or "
    "cannot start, 4 not allowed, 5 the awaited task failed, 6 it still runs, 130 interrupted.",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Print the version.",
)
def main() -> None:
    """A task queue on PostgreSQL that any language can work on.

    Operator commands reach the server at --address (WORKERQUEUE_ADDRESS; by default
    127.0.0.1:50551) and need nothing but that.
    """


if __name__ == "__main__":
    main()
