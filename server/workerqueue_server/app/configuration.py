"""Reads the settings from where they may stand, and remembers where each one stood."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource

from workerqueue_server.app.exposure import exposure
from workerqueue_server.app.settings import (
    PREFIX,
    Settings,
    flag_of,
    is_secret,
    variable_of,
)

CONFIG_VARIABLE = PREFIX + "CONFIG"
DEFAULT = "default"

# Variables with the prefix that are no settings of the server: they tell clients and operator
# commands how to reach one.
_CLIENT_VARIABLES = frozenset(
    PREFIX + name
    for name in (
        *("CACERT", "CERT", "CONFIG", "KEY", "MAX_TIME", "OUTPUT", "PLAINTEXT"),
        *("SERVERNAME", "TLS", "TOKEN", "TOKEN_FILE"),
    )
)

_PATHS = frozenset(
    {
        *("data_dir", "descriptors", "port_file", "schedules"),
        *("tls_cert", "tls_client_ca", "tls_key"),
    }
)


class SettingsError(Exception):
    """Settings that nobody can start with; each problem names its setting and the reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("wrong settings:\n" + "\n".join(f"  {problem}" for problem in problems))
        self.problems = problems


@dataclass(frozen=True)
class Configuration:
    """Effective settings.

    Attributes:
        settings: The settings.
        sources: Where each one was set, for people: a flag, a variable, the file, or `default`.
        warnings: What looks like a mistake but stops nothing.
    """

    settings: Settings
    sources: Mapping[str, str]
    warnings: list[str] = field(default_factory=list)

    def refuse_exposure(self) -> None:
        """Raises SettingsError if a server with these settings would be open to strangers."""
        if (reason := exposure(self.settings)) is not None:
            raise SettingsError([f"address: {reason} ({self.sources['address']})"])

    def shown(self, name: str) -> str:
        """The value for people; passwords are masked, an unset one is empty."""
        value = getattr(self.settings, name)
        if value is None:
            return ""
        if isinstance(value, tuple):
            return os.pathsep.join(map(str, value))
        if isinstance(value, bool):
            return str(value).lower()
        return mask_dsn(value) if is_secret(name) else str(value)


def load(flags: Mapping[str, Any], config_file: Path | None = None) -> Configuration:
    """The effective settings: flags over environment over file over defaults.

    Args:
        flags: Given flags by setting; None and empty tuples mean not given.
        config_file: A TOML file. Default: the one that `WORKERQUEUE_CONFIG` names, else none.

    Raises:
        SettingsError: A value is wrong, or the file cannot be used.
    """
    path = config_file or _config_from_environment()
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    found: list[tuple[Mapping[str, Any], str]] = [
        (_read_file(path) if path is not None else {}, f"file {path}"),
        (EnvSettingsSource(Settings)(), ""),
        (given, ""),
    ]
    values: dict[str, Any] = {}
    sources = dict.fromkeys(Settings.model_fields, DEFAULT)
    for number, (layer, source) in enumerate(found):
        for name, value in layer.items():
            values[name] = value
            sources[name] = source or (variable_of(name) if number == 1 else flag_of(name))
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise SettingsError(_problems(error, values, sources)) from None
    return Configuration(settings, sources, _suspicious_variables())


def mask_dsn(dsn: str) -> str:
    """The connection string without its passwords, in the form of key=value."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    try:
        parts = conninfo_to_dict(dsn)
    except ProgrammingError:
        return "***"
    parts.update({name: "***" for name in parts if "password" in name})
    return make_conninfo("", **parts)


def _config_from_environment() -> Path | None:
    named = os.environ.get(CONFIG_VARIABLE)
    return Path(named) if named else None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError([f"cannot read the file {path}: {error.strerror}"]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError([f"the file {path} is not TOML: {error}"]) from None
    unknown = [name for name in content if name not in Settings.model_fields]
    if unknown:
        raise SettingsError(
            [f"{name}: no such setting (file {path}){_nearest(name)}" for name in unknown]
        )
    return {name: _from_folder(name, value, path.parent) for name, value in content.items()}


def _from_folder(name: str, value: Any, folder: Path) -> Any:
    """Paths in a file are meant from the file's own folder."""
    if name not in _PATHS:
        return value
    if isinstance(value, list):
        return tuple(folder / path if isinstance(path, str) else path for path in value)
    return folder / value if isinstance(value, str) else value


def _problems(
    error: ValidationError, values: Mapping[str, Any], sources: Mapping[str, str]
) -> list[str]:
    problems = []
    for detail in error.errors(include_url=False, include_context=False):
        name = str(detail["loc"][0])
        reason = detail["msg"].removeprefix("Value error, ")
        value = "" if is_secret(name) else f" = {values.get(name)}"
        problems.append(f"{name}: {reason} ({sources[name]}{value})")
    return problems


def _suspicious_variables() -> list[str]:
    """Variables that are close to a setting's: surely meant, and without effect."""
    # Far ones are left alone: Kubernetes sets WORKERQUEUE_PORT and more for a Service of that name.
    known = {variable_of(name) for name in Settings.model_fields}
    found = []
    for name in sorted(os.environ):
        if not name.startswith(PREFIX) or name in known or name in _CLIENT_VARIABLES:
            continue
        if near := difflib.get_close_matches(name, known, n=1, cutoff=0.9):
            found.append(f"{name} is no setting and has no effect; did you mean {near[0]}?")
    return found


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, Settings.model_fields, n=1)
    return f"; did you mean {near[0]}?" if near else ""
