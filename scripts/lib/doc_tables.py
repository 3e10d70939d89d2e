"""The tables of the documentation that are made from the code.

A table stands between `<!-- begin: NAME -->` and `<!-- end: NAME -->`. Without arguments this
writes them; with `--check` it fails if one is not what would be written.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from workerqueue_server.app.prometheus import metric_name
from workerqueue_server.app.settings_table import settings_table
from workerqueue_server.queue import bounds
from workerqueue_server.queue.catalog import Catalog, Kind
from workerqueue_server.telemetry.figures import Counter, Distribution, Gauge
from workerqueue_server.telemetry.instruments import FIGURES

ROOT = Path(__file__).parents[2]
_MARKED = re.compile(r"<!-- begin: ([a-z-]+) -->\n.*?<!-- end: \1 -->", re.DOTALL)


def kinds_table() -> str:
    """The built-in kinds and their policies."""
    rows = [
        "| Kind | Payload | Queue | Priority | Attempts | Timeout | Concurrency key |",
        "|---|---|---|---|---|---|---|",
    ]
    rows += [_kind_row(kind) for kind in Catalog.load().kinds.values()]
    return "\n".join(rows) + "\n"


def metrics_table() -> str:
    """The server's figures as Prometheus and OpenTelemetry name them."""
    rows = ["| Prometheus | OpenTelemetry | Sort | Labels | Meaning |", "|---|---|---|---|---|"]
    for figure in FIGURES:
        about = figure.about
        unit = "" if about.unit == "1" else f", {about.unit}"
        labels = ", ".join(f"`{name}`" for name in about.attributes)
        rows.append(
            f"| `{metric_name(figure)}` | `{about.name}`{unit} | {_SORTS[type(figure)]} | {labels} "
            f"| {about.description} |"
        )
    return "\n".join(rows) + "\n"


_SORTS = {Counter: "counter", Distribution: "histogram", Gauge: "gauge"}


def bounds_table() -> str:
    """The limits on what callers send, with the reasons that stand beside them."""
    rows = ["| Limit | Value | Why |", "|---|---|---|"]
    for name, reason in bounds.REASONS.items():
        value = getattr(bounds, name)
        shown = " to ".join(map(_shown, value)) if isinstance(value, tuple) else _shown(value)
        rows.append(f"| `{name}` | {shown} | {reason} |")
    return "\n".join(rows) + "\n"


def _shown(value: float) -> str:
    return f"{value:,g}" if isinstance(value, float) else f"{value:,}"


TABLES: dict[str, Callable[[], str]] = {
    "bounds": bounds_table,
    "kinds": kinds_table,
    "metrics": metrics_table,
    "settings": settings_table,
}


def with_tables(text: str) -> str:
    """The page with every marked table made anew. Raises KeyError for an unknown name."""

    def make(match: re.Match[str]) -> str:
        name = match.group(1)
        return f"<!-- begin: {name} -->\n{TABLES[name]()}<!-- end: {name} -->"

    return _MARKED.sub(make, text)


def pages() -> list[Path]:
    """The pages that may have tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _kind_row(kind: Kind) -> str:
    policy = kind.policy
    fields = ", ".join(field.json_name for field in kind.descriptor.fields)
    key = f"`{policy.concurrency_key}`" if policy.concurrency_key else ""
    return (
        f"| `{kind.name}` | {fields} | {policy.queue} | {policy.priority} | {policy.max_attempts} "
        f"| {policy.timeout_ms // 1000} s | {key} |"
    )


def main() -> None:
    """Writes the tables, or checks them."""
    stale = [page for page in pages() if (text := page.read_text()) != with_tables(text)]
    if "--check" not in sys.argv:
        for page in stale:
            page.write_text(with_tables(page.read_text()))
    elif stale:
        names = ", ".join(str(page.relative_to(ROOT)) for page in stale)
        sys.exit(f"stale: {names}. Run scripts/generate-docs and commit the result.")


if __name__ == "__main__":
    main()
