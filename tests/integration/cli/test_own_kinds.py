"""Kinds that this installation knows nothing of are shown in full, through reflection."""

from __future__ import annotations

import json
from pathlib import Path

from tests.descriptors import everything
from tests.integration.cli.commands import Cli
from tests.postgres import Database
from tests.servers import ServerProcess


async def test_an_own_kind_is_enqueued_and_shown(database: Database, tmp_path: Path) -> None:
    descriptors = tmp_path / "everything.binpb"
    descriptors.write_bytes(everything())
    with ServerProcess(database.dsn, arguments=["--descriptors", str(descriptors)]) as process:
        cli = Cli(process.address)
        shown = (await cli("kinds", "show", "everything", "-o", "json")).json()
        example = json.loads(shown["exampleJson"])
        task_id = (await cli("enqueue", "everything", shown["exampleJson"], "-q")).out.strip()
        payload = (await cli("tasks", "show", task_id, "-o", "json")).json()["payload"]
        assert payload["@type"] == "type.googleapis.com/everything.v1.Everything"
        scalars = {name: value for name, value in example.items() if isinstance(value, str)}
        assert scalars
        assert {name: payload[name] for name in scalars} == scalars
    silent = ServerProcess(
        database.dsn, arguments=["--descriptors", str(descriptors), "--no-reflection"]
    )
    with silent:
        payload = (await Cli(silent.address)("tasks", "show", task_id, "-o", "json")).json()[
            "payload"
        ]
        assert set(payload) == {"@type", "value"}
