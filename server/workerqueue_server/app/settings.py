"""Settings: flags over environment over defaults, checked at start."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """The server's settings. Each can be set as ``WORKERQUEUE_<NAME>`` in the environment."""

    model_config = SettingsConfigDict(env_prefix="WORKERQUEUE_", extra="ignore")

    address: str = Field(
        "127.0.0.1:50551", description="Where to listen: host:port; port 0 picks one."
    )
    dsn: str | None = Field(
        None, description="PostgreSQL 15 or newer. Unset: the embedded Postgres in data_dir."
    )
    listen_dsn: str | None = Field(
        None, description="DSN for LISTEN where dsn goes through PgBouncer in transaction mode."
    )
    data_dir: Path = Field(
        Path(".workerqueue"), description="Folder of the embedded Postgres; survives restarts."
    )
    descriptors: tuple[Path, ...] = Field(
        (), description="Descriptor sets with your own task kinds."
    )
    processes: int = Field(1, ge=1, le=64, description="Server processes that share the port.")
    drain_seconds: float = Field(
        10.0, ge=0, le=3600, description="How long workers may finish after SIGTERM."
    )
    reflection: bool = Field(True, description="Whether grpcurl may ask for the contract.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged."
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="Lines for people, or one JSON object a line."
    )
    port_file: Path | None = Field(None, description="File to write the bound port to.")
    migrate: bool = Field(True, description="Whether serve brings the schema up to date.")

    @field_validator("address")
    @classmethod
    def _check_address(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not port.isdigit() or not 0 <= int(port) <= 65535:
            raise ValueError("must be host:port, such as 127.0.0.1:50551")
        return value
