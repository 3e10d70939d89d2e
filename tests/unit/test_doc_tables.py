"""The documentation's tables are those of the code."""

from __future__ import annotations

import pytest

from doc_tables import TABLES, pages, with_tables


def test_tables_are_fresh() -> None:
    stale = [page.name for page in pages() if page.read_text() != with_tables(page.read_text())]

    assert not stale, "run scripts/generate-docs and commit the result"


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_shown_somewhere(name: str) -> None:
    assert any(f"<!-- begin: {name} -->" in page.read_text() for page in pages())
