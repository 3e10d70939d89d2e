"""Changes to many tasks: counted, confirmed, done."""

from __future__ import annotations

from tests.integration.cli.commands import Cli, Terminal
from tests.toolkit import Api


async def _fill(api: Api, queue: str, count: int) -> None:
    for _ in range(count):
        await api.enqueue(queue=queue)


async def _kill(api: Api, queue: str, count: int, error_type: str = "ValueError") -> None:
    """Makes dead tasks."""
    for _ in range(count):
        await api.enqueue(queue=queue)
    for task in await api.take(queue, count):
        await api.fail(task.lease_token, error={"type": error_type}, permanent=True)


async def _count(cli: Cli, queue: str, state: str) -> int:
    listed = await cli("tasks", "list", "--queue", queue, "--state", state, "--all", "-o", "jsonl")
    return len(listed.json_lines())


async def test_nothing_is_chosen_without_a_filter(cli: Cli) -> None:
    for command in ("cancel", "retry", "delete"):
        ended = await cli("tasks", command, code=2)
        assert "name tasks by id, or choose them by flags" in ended.err


async def test_ids_and_filters_do_not_mix(cli: Cli) -> None:
    ended = await cli("tasks", "cancel", "some-id", "--kind", "startRun", code=2)
    assert "not both" in ended.err


async def test_a_dry_run_counts_and_changes_nothing(cli: Cli, api: Api, queue: str) -> None:
    await _fill(api, queue, 3)
    ended = await cli("tasks", "cancel", "--queue", queue, "--dry-run")
    assert ended.out == "3 tasks would be cancelled\n"
    ended = await cli("tasks", "cancel", "--queue", queue, "--dry-run", "-o", "json")
    assert ended.json()["matched"] == "3"
    assert ended.json()["changed"] == "0"
    assert await _count(cli, queue, "available") == 3


async def test_without_a_terminal_yes_must_be_said(cli: Cli, api: Api, queue: str) -> None:
    await _fill(api, queue, 2)
    ended = await cli("tasks", "cancel", "--queue", queue, code=2)
    assert "2 tasks would be cancelled; add --yes" in ended.err
    assert await _count(cli, queue, "available") == 2
    ended = await cli("tasks", "cancel", "--queue", queue, "--yes", "--reason", "over")
    assert ended.out == "2 tasks cancelled\n"
    assert await _count(cli, queue, "cancelled") == 2


async def test_on_a_terminal_the_question_is_asked(cli: Cli, api: Api, queue: str) -> None:
    await _fill(api, queue, 2)
    async with Terminal(cli, "tasks", "delete", "--queue", queue) as terminal:
        await terminal.until("2 tasks will be deleted. Go on? [y/N]")
        terminal.type("n\n")
        assert await terminal.end() == 0
        assert "nothing was changed" in terminal.seen
    assert await _count(cli, queue, "available") == 2
    async with Terminal(cli, "tasks", "delete", "--queue", queue) as terminal:
        await terminal.until("Go on?")
        terminal.type("y\n")
        assert await terminal.end() == 0
        assert "2 tasks deleted" in terminal.seen
    assert await _count(cli, queue, "available") == 0


async def test_where_nothing_fits_nothing_is_asked(cli: Cli, queue: str) -> None:
    assert (await cli("tasks", "cancel", "--queue", queue)).out == "0 tasks cancelled\n"


async def test_dead_tasks_are_listed_retried_and_purged(cli: Cli, api: Api, queue: str) -> None:
    await _kill(api, queue, 2)
    await _kill(api, queue, 1, "KeyError")
    listed = await cli("dead", "--queue", queue)
    assert len(listed.rows()) == 3
    assert "ValueError" in listed.out
    retried = await cli("dead", "retry", "--queue", queue, "--error-type", "KeyError", "--yes")
    assert retried.out == "1 tasks retried\n"
    assert await _count(cli, queue, "available") == 1
    purged = await cli("dead", "purge", "--queue", queue, "--yes", "-o", "json")
    assert purged.json()["changed"] == "2"
    assert purged.json()["done"] is True
    assert await _count(cli, queue, "dead") == 0


async def test_dead_tasks_can_be_chosen_by_when_they_died(cli: Cli, api: Api, queue: str) -> None:
    await _kill(api, queue, 1)
    assert "0 tasks" in (await cli("dead", "retry", "--queue", queue, "--finished-until", "1h")).out
    recent = await cli("dead", "retry", "--queue", queue, "--finished-since", "1h", "--yes")
    assert recent.out == "1 tasks retried\n"


async def test_a_server_that_is_away_is_told(cli: Cli) -> None:
    ended = await cli(
        *("tasks", "cancel", "--kind", "startRun", "--yes", "--address", "127.0.0.1:1"), code=3
    )
    assert "no server answers" in ended.err
