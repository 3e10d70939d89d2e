"""The server's settings: flags over environment over file over defaults, checked at start.

`Settings` is the one list of them. Flags, environment variables, the file's keys and the table in
the documentation are derived from its fields.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from workerqueue_server.queue import bounds

PREFIX = "WORKERQUEUE_"
_T = TypeVar("_T")


def _split_paths(value: object) -> object:
    # As in PATH, so that a variable needs no quoting of JSON.
    return tuple(filter(None, value.split(os.pathsep))) if isinstance(value, str) else value


def _check_dsn(value: str) -> str:
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        conninfo_to_dict(value)
    except ProgrammingError:
        # The driver's own words repeat the DSN, and with it a password.
        raise ValueError(
            "must be a PostgreSQL connection string, such as postgresql://user@host:5432/database"
        ) from None
    return value


def _check_file(value: Path) -> Path:
    if not value.is_file():
        raise ValueError(f"there is no file {value}")
    return value


def _check_parent(value: Path) -> Path:
    if not value.parent.is_dir():
        raise ValueError(f"there is no folder {value.parent}")
    return value


def _check_host_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("must be host:port, such as 127.0.0.1:50551")
    if ":" in host and not host.startswith("["):
        raise ValueError("an IPv6 address needs brackets, such as [::1]:50551")
    return value


def _check_installed(value: _T, module: str) -> _T:
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise ValueError("needs the extra otel: pip install 'workerqueue[server,otel]'")
    return value


_Dsn = Annotated[str, AfterValidator(_check_dsn)]
_ExistingFile = Annotated[Path, AfterValidator(_check_file)]
_FileToWrite = Annotated[Path, AfterValidator(_check_parent)]
_Files = Annotated[tuple[_ExistingFile, ...], NoDecode, BeforeValidator(_split_paths)]


def _setting(
    default: Any,
    description: str,
    *,
    flag: str | None = None,
    metavar: str | None = None,
    secret: bool = False,
    ge: float | None = None,
    le: float | None = None,
    validate_default: bool | None = None,
) -> Any:
    """A field with what flags and documentation need to know about it.

    ``flag`` is the flag's name where it is not the field's; a ``secret`` may hold a password.
    """
    about: JsonDict = {"flag": flag, "metavar": metavar, "secret": secret}
    return Field(
        default,
        description=description,
        json_schema_extra=about,
        ge=ge,
        le=le,
        validate_default=validate_default,
    )


class Settings(BaseSettings):
    """The server's settings; read them with `workerqueue_server.app.configuration.load`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", validate_default=False)

    address: str = _setting(
        "127.0.0.1:50551",
        "Where to listen. Port 0 picks a free one.",
        flag="--listen",
        metavar="HOST:PORT",
    )
    dsn: _Dsn | None = _setting(
        None,
        "The database: PostgreSQL 15 or newer. Without it the embedded PostgreSQL runs in "
        "`data_dir`.",
        metavar="DSN",
        secret=True,
    )
    listen_dsn: _Dsn | None = _setting(
        None,
        "The database for LISTEN, where `dsn` goes through PgBouncer in transaction mode.",
        metavar="DSN",
        secret=True,
    )
    data_dir: Path = _setting(
        Path(".workerqueue"),
        "The folder of the embedded PostgreSQL. Its data survives restarts.",
        metavar="FOLDER",
    )
    migrate: bool = _setting(
        True, "Whether the server brings the schema up to date when it starts."
    )
    descriptors: _Files = _setting(
        (),
        "Descriptor sets with your own task kinds. The flag may be given several times; in the "
        f"environment they are separated by `{os.pathsep}`.",
        metavar="FILE",
    )
    schedules: _ExistingFile | None = _setting(
        None,
        "A TOML file that declares schedules. Those that it no longer names are deleted; schedules "
        "made over the API are left alone.",
        metavar="FILE",
    )
    auth: Literal["off", "tokens"] = _setting(
        "off",
        "Who may call: everybody who reaches the port, or who has a bearer token "
        "(`workerqueue token create`).",
    )
    max_streams_per_token: int = _setting(
        bounds.LEASE_STREAMS_PER_PRINCIPAL,
        f"Lease streams that one token may have open on one server process, 1 to "
        f"{bounds.LEASE_STREAMS}. Beyond it a stream is refused.",
        metavar="NUMBER",
        ge=1,
        le=bounds.LEASE_STREAMS,
    )
    max_in_flight_per_token: int = _setting(
        bounds.IN_FLIGHT_PER_PRINCIPAL,
        "Leases that all streams of one token together may hold on one server process, 1 or more. "
        "At the bound they are given no more until some are answered.",
        metavar="NUMBER",
        ge=1,
    )
    max_lanes: int = _setting(
        bounds.LANES,
        "Combinations of queue, kind and priority up to which producers may add new ones by naming "
        "them, 1 or more. Beyond it a task that needs another is refused; what is there stays.",
        metavar="NUMBER",
        ge=1,
    )
    tls_cert: _ExistingFile | None = _setting(
        None,
        "The server's certificate chain, PEM, and with it TLS. Read again when it changes.",
        metavar="FILE",
    )
    tls_key: _ExistingFile | None = _setting(
        None,
        "The private key to `tls_cert`, PEM, without a passphrase.",
        metavar="FILE",
        # Also when it is not given: the certificate may be.
        validate_default=True,
    )
    tls_client_ca: _ExistingFile | None = _setting(
        None,
        "Certificates of the authorities, PEM, one of which must have signed the certificate of "
        "every client (mutual TLS).",
        metavar="FILE",
    )
    allow_insecure: bool = _setting(
        False,
        "Whether the server may listen beyond the loopback interface without TLS, or without "
        "knowing who calls.",
    )
    processes: int = _setting(
        1, "Server processes that share the port, 1 to 64.", metavar="NUMBER", ge=1, le=64
    )
    drain_seconds: float = _setting(
        10.0,
        "How long workers may finish their tasks after SIGTERM, 0 to 3600.",
        metavar="SECONDS",
        ge=0,
        le=3600,
    )
    reflection: bool = _setting(
        True, "Whether grpcurl and the command line may ask for the contract."
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", "The least level that is logged."
    )
    log_format: Literal["console", "json"] = _setting(
        "console", "Log lines for people, or one JSON object a line."
    )
    prometheus_address: str | None = _setting(
        None,
        "Where to serve metrics for Prometheus to scrape, at `/metrics`; unset: nowhere. With "
        "several processes the next ports are taken too, one each. Needs the extra `otel`.",
        flag="--prometheus",
        metavar="HOST:PORT",
    )
    otlp_traces: bool = _setting(
        False,
        "Whether to send spans of enqueues and attempts over OTLP/gRPC; where to, the standard "
        "`OTEL_` variables say. Needs the extra `otel`.",
    )
    otlp_metrics: bool = _setting(
        False, "Whether to send metrics over OTLP/gRPC, likewise. Needs the extra `otel`."
    )
    port_file: _FileToWrite | None = _setting(
        None, "A file to write the bound port to once the server listens.", metavar="FILE"
    )

    @field_validator("otlp_traces", "otlp_metrics")
    @classmethod
    def _check_otlp(cls, value: bool) -> bool:
        return _check_installed(value, "opentelemetry.exporter.otlp.proto.grpc") if value else value

    @field_validator("prometheus_address")
    @classmethod
    def _check_prometheus(cls, value: str | None) -> str | None:
        if value is None:
            return None
        return _check_installed(_check_host_port(value), "prometheus_client")

    @field_validator("address")
    @classmethod
    def _check_address(cls, value: str) -> str:
        return _check_host_port(value)

    @field_validator("listen_dsn")
    @classmethod
    def _check_listen_dsn(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and "dsn" in info.data and info.data["dsn"] is None:
            raise ValueError("is of use only together with dsn")
        return value

    @field_validator("tls_key")
    @classmethod
    def _check_tls_key(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if "tls_cert" in info.data and (value is None) != (info.data["tls_cert"] is None):
            raise ValueError("tls_cert and tls_key go together")
        return value

    @field_validator("tls_client_ca")
    @classmethod
    def _check_tls_client_ca(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and "tls_cert" in info.data and info.data["tls_cert"] is None:
            raise ValueError("is of use only together with tls_cert and tls_key")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Nothing but what is passed in: `configuration.load` reads the sources and notes them."""
        return (init_settings,)


def about(name: str) -> dict[str, Any]:
    """A setting's flag, metavar and secret, as given to `_setting`."""
    extra = Settings.model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    return dict(extra)


def flag_of(name: str) -> str:
    """The flag of ``serve`` that sets it, such as ``--data-dir``."""
    return about(name)["flag"] or "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """The environment variable that sets it."""
    return PREFIX + name.upper()


def is_secret(name: str) -> bool:
    """Whether its value may hold a password."""
    return bool(about(name)["secret"])


def choices_of(field: FieldInfo) -> tuple[str, ...]:
    """The values of a setting that has few; empty: it has many."""
    return get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
