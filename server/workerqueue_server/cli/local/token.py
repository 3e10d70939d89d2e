"""``workerqueue token``: bearer tokens, made and revoked in the database itself.

Not over the API: who may make tokens may do everything, so that is left to who reaches the
database, and no token can make another. It is also how the first one comes into being.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

from workerqueue_server.app.settings import Settings
from workerqueue_server.cli.exits import Exit
from workerqueue_server.cli.failures import Failure
from workerqueue_server.cli.local.settings_flags import read_settings, settings_flags
from workerqueue_server.cli.output import Column, print_json, print_table, say
from workerqueue_server.cli.parameters import SPAN
from workerqueue_server.queue import bearer, bounds
from workerqueue_server.queue.access import Role
from workerqueue_server.store.embedded import EmbeddedPostgres
from workerqueue_server.store.errors import StoreError
from workerqueue_server.store.migrator import migrate
from workerqueue_server.store.tokens import ListedToken, NewToken, TokenStore

Result = TypeVar("Result")

_NAME_LENGTH = 128
_database_flags = settings_flags("dsn", "data_dir", "migrate")
_output = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="For people or for programs.",
)


@click.group()
def token() -> None:
    """Create, list and revoke bearer tokens, in the database.

    Works with the server's database (--dsn, or the embedded one in --data-dir), and so without a
    server. A server asks for tokens if it is started with --auth tokens.
    """


@token.command("create")
@click.argument("name")
@click.option(
    "--role",
    "roles",
    type=click.Choice([role.value for role in Role]),
    multiple=True,
    required=True,
    help="What it may do; may be given several times.",
)
@click.option(
    "--queue",
    "queues",
    multiple=True,
    metavar="NAME",
    help="A queue of its scope, or how names begin and a *; may be given several times. [any]",
)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    metavar="NAME",
    help="A kind of its scope, or how names begin and a *; may be given several times. [any]",
)
@click.option("--expires", type=SPAN, metavar="TIME", help="How long it is good. [until revoked]")
@click.option(
    "--save",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the token to a new file that only you can read, instead of showing it.",
)
@_database_flags
def create(
    name: str,
    roles: tuple[str, ...],
    queues: tuple[str, ...],
    kinds: tuple[str, ...],
    expires: timedelta | None,
    save: Path | None,
    **flags: Any,
) -> None:
    """Make a token and show it once; the database keeps a hash of it alone.

    NAME is for people: whose it is, and what for. The scope of a producer or worker is the tasks
    whose queue and whose kind are both in it; an operator's token has none.
    """
    _check(name, roles, queues, kinds, expires)
    text, kept = bearer.mint()
    seconds = None if expires is None else expires.total_seconds()
    new = NewToken(
        kept.token_id, name, kept.secret_hash, tuple(dict.fromkeys(roles)), queues, kinds, seconds
    )
    if save is None:
        expires_at = _in_database(flags, lambda store: store.insert(new))
        click.echo(text)
    else:
        # Before the token exists: else a file that cannot be written leaves one that nobody has.
        _save(save, text)
        try:
            expires_at = _in_database(flags, lambda store: store.insert(new))
        except BaseException:
            save.unlink(missing_ok=True)
            raise
    until = "until it is revoked" if expires_at is None else f"until {_moment(expires_at)}"
    where = f"written to {save}" if save is not None else "it is not shown again"
    say(f"token {kept.token_id} ({name}): {', '.join(new.roles)}; good {until}; {where}")


@token.command("list")
@click.option("--all", "include_dead", is_flag=True, help="Expired and revoked ones as well.")
@_output
@_database_flags
def list_tokens(include_dead: bool, output: str, **flags: Any) -> None:
    """List tokens, the newest first. Nothing of their secrets is known."""
    found = _in_database(flags, lambda store: store.listed(include_dead=include_dead))
    if output == "json":
        print_json([_facts(entry) for entry in found])
        return
    print_table(
        [
            Column("token", whole=True),
            *map(Column, ("name", "roles", "queues", "kinds", "state", "created")),
            *map(Column, ("expires", "last used")),
        ],
        [
            (
                *(entry.token_id, entry.name, ", ".join(entry.roles)),
                *(", ".join(entry.queues) or "any", ", ".join(entry.kinds) or "any"),
                *(entry.state, _moment(entry.created_at)),
                *(_moment(entry.expires_at) or "never", _moment(entry.last_used_at) or "never"),
            )
            for entry in found
        ],
    )


@token.command("revoke")
@click.argument("token_ids", metavar="ID...", nargs=-1, required=True)
@_database_flags
def revoke(token_ids: tuple[str, ...], **flags: Any) -> None:
    """Revoke tokens for good, by the id that `list` shows.

    Every server refuses them within seconds and ends the streams that were opened with them. Leases
    stay valid until their clock runs out.
    """
    ids = [_id_of(given) for given in dict.fromkeys(token_ids)]
    revoked = _in_database(flags, lambda store: store.revoke(ids))
    for token_id in ids:
        if token_id in revoked:
            click.echo(f"revoked {token_id}")
    if missing := [token_id for token_id in ids if token_id not in revoked]:
        raise Failure(
            f"there is no token {', '.join(missing)}",
            hint="`workerqueue token list --all` shows the tokens",
        )


def _check(
    name: str,
    roles: tuple[str, ...],
    queues: tuple[str, ...],
    kinds: tuple[str, ...],
    expires: timedelta | None,
) -> None:
    if not name.strip() or len(name) > _NAME_LENGTH or not name.isprintable():
        raise click.UsageError(f"NAME must be 1 to {_NAME_LENGTH} printable characters")
    if (queues or kinds) and Role.OPERATOR in roles:
        raise click.UsageError(
            "an operator's token has no scope: what operators do concerns all tasks"
        )
    for flag, names in (("--queue", queues), ("--kind", kinds)):
        for given in names:
            if not bounds.is_queue_name(given.removesuffix("*")):
                raise click.UsageError(
                    f"{flag} {given!r}: 1 to 128 letters, digits or any of ._:/-, and a * at the "
                    "end at most"
                )
    if expires is not None and expires <= timedelta(0):
        raise click.UsageError("--expires must be above 0")


def _id_of(given: str) -> str:
    if bearer.read(given) is not None:
        raise click.UsageError(
            "name a token by its id, the part between the first two underscores: the secret does "
            "not belong on a command line"
        )
    return given


def _save(path: Path, text: str) -> None:
    try:
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(f"{text}\n")
    except FileExistsError:
        raise click.UsageError(f"{path} exists already") from None
    except OSError as error:
        raise click.UsageError(f"cannot write {path}: {error.strerror}") from None


def _in_database(flags: dict[str, Any], work: Callable[[TokenStore], Awaitable[Result]]) -> Result:
    settings = read_settings(flags).settings
    try:
        return asyncio.run(_work(settings, work))
    except StoreError as error:
        raise Failure(str(error), Exit.UNREACHABLE) from error


async def _work(settings: Settings, work: Callable[[TokenStore], Awaitable[Result]]) -> Result:
    if settings.dsn is None:
        async with EmbeddedPostgres(settings.data_dir) as dsn:
            return await _work(settings.model_copy(update={"dsn": dsn}), work)
    if settings.migrate:
        await migrate(settings.dsn)
    store = TokenStore(settings.dsn)
    try:
        return await work(store)
    finally:
        await store.close()


def _moment(value: Any) -> str:
    return "" if value is None else value.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def _facts(entry: ListedToken) -> dict[str, Any]:
    return {
        name: value.isoformat() if hasattr(value, "isoformat") else value
        for name, value in entry._asdict().items()
    }
