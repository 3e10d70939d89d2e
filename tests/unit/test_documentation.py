"""The pages agree with the contract and with each other."""

from __future__ import annotations

import re

from doc_tables import ROOT, pages
from tests.transcripts import blocks
from workerqueue.tasks.v1 import tasks_pb2


def test_the_policy_shown_is_the_catalogs() -> None:
    readme = (ROOT / "README.md").read_text()
    (shown,) = (block.text for block in blocks(readme) if block.language == "proto")
    option = shown[shown.index("option (workerqueue.v1.task)") : shown.index("};")]
    catalog = _words((ROOT / "proto" / tasks_pb2.DESCRIPTOR.name).read_text())
    message = catalog[catalog.index("message PerformRunExecution") :]

    for line in option.splitlines()[1:]:
        assert _words(line) in message[: message.index("string id")]


def test_links_lead_somewhere() -> None:
    broken = [
        f"{page.name}: {target}"
        for page in pages()
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
        if not target.startswith("http") and not (page.parent / target).exists()
    ]

    assert broken == []


def _words(text: str) -> str:
    return " ".join(text.split())
