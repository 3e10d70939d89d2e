"""The settings as a table of the documentation, made from the code."""

from __future__ import annotations

from typing import Any

from workerqueue_server.app.settings import (
    Settings,
    choices_of,
    flag_of,
    variable_of,
)


def settings_table() -> str:
    """Markdown: one row per setting, ending with a line break."""
    rows = ["| Setting | Flag | Environment | Default | Meaning |", "|---|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        flag = flag_of(name)
        if field.annotation is bool:
            flag = f"{flag}, --no-{flag[2:]}"
        rows.append(
            f"| `{name}` | `{flag}` | `{variable_of(name)}` | {_shown(field.default)} "
            f"| {_meaning(name)} |"
        )
    return "\n".join(rows) + "\n"


def _meaning(name: str) -> str:
    field = Settings.model_fields[name]
    choices = choices_of(field)
    listed = f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
    return (field.description or "") + listed


def _shown(default: Any) -> str:
    if default is None or default == ():
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"
