"""`workerqueue schedules`."""

from __future__ import annotations

from tests.integration.cli.commands import Cli


async def test_a_schedule_lives_through_all_its_commands(cli: Cli) -> None:
    made = await cli(
        *("schedules", "create", "nightly", "--cron", "0 3 * * *", "--kind", "startRun"),
        *("--payload", '{"id": "night"}', "--time-zone", "Europe/Berlin", "--overlap", "skip"),
        *("--catch-up", "all", "--catch-up-limit", "7", "--tag", "night", "--priority", "5"),
    )
    assert made.out.startswith("nightly: open, 0 3 * * * Europe/Berlin, next ")
    rows = {row[0]: row for row in (await cli("schedules")).rows()}
    assert rows["nightly"][1] == "open"
    shown = (await cli("schedules", "show", "nightly", "--next", "3")).out
    assert "overlap        skip" in shown
    assert '"id": "night"' in shown
    assert len(shown.partition("next ticks")[2].split("(in ")) == 4

    updated = await cli("schedules", "update", "nightly", "--cron", "@hourly", "-o", "json")
    document = updated.json()
    assert document["cron"] == "@hourly"
    assert document["timeZone"] == "Europe/Berlin", "what no flag names stays"
    assert document["overlap"] == "OVERLAP_POLICY_SKIP"
    assert document["task"]["options"]["tags"] == ["night"]

    assert "nightly: paused" in (await cli("schedules", "pause", "nightly")).out
    assert "nightly: open" in (await cli("schedules", "resume", "nightly")).out
    triggered = (await cli("schedules", "trigger", "nightly")).out
    assert "(startRun in queue executions)" in triggered
    task = (await cli("tasks", "show", triggered.split()[0], "-o", "json")).json()
    assert task["payload"]["id"] == "night"
    assert task["priority"] == 5

    assert (await cli("schedules", "delete", "nightly")).out == "nightly deleted\n"
    refused = await cli("schedules", "show", "nightly", code=1)
    assert "SCHEDULE_NOT_FOUND" in refused.err


async def test_create_refuses_what_exists_unless_it_may_replace(cli: Cli) -> None:
    arguments = ("schedules", "create", "twice", "--kind", "startRun", "--payload", '{"id": "r"}')
    await cli(*arguments, "--cron", "@daily")
    assert "ALREADY_EXISTS" in (await cli(*arguments, "--cron", "@daily", code=1)).err
    replaced = await cli(*arguments, "--cron", "@weekly", "--replace", "-o", "json")
    assert replaced.json()["cron"] == "@weekly"


async def test_a_check_makes_nothing(cli: Cli) -> None:
    arguments = ("schedules", "create", "checked", "--kind", "startRun", "--payload", '{"id": "r"}')
    checked = await cli(*arguments, "--cron", "0 12 * * MON", "--check", "-o", "json")
    assert checked.json()["nextRunTimes"]
    await cli("schedules", "show", "checked", code=1)


async def test_a_wrong_definition_is_told_with_its_field(cli: Cli) -> None:
    arguments = ("schedules", "create", "wrong", "--kind", "startRun", "--payload", '{"id": "r"}')
    assert "schedule.cron" in (await cli(*arguments, "--cron", "every day", code=1)).err
    zone = await cli(*arguments, "--cron", "@daily", "--time-zone", "Europe/Nowhere", code=1)
    assert "time_zone" in zone.err
    await cli(*arguments, code=2)
