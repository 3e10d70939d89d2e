"""Settings: where they come from, what is refused, what is never shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workerqueue_server.app.configuration import Configuration, SettingsError, load, mask_dsn
from workerqueue_server.app.settings import Settings, flag_of, is_secret, variable_of
from workerqueue_server.app.settings_table import settings_table

CANARY = "hunter2"


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in os.environ:
        if name.startswith("WORKERQUEUE_"):
            monkeypatch.delenv(name)


def problems(flags: dict[str, Any], config_file: Path | None = None) -> list[str]:
    """What is wrong with them."""
    with pytest.raises(SettingsError) as caught:
        load(flags, config_file)
    return caught.value.problems


def shown(configuration: Configuration) -> dict[str, str]:
    """Everything that is shown of the settings."""
    return {name: configuration.shown(name) for name in configuration.sources}


def test_defaults_need_nothing() -> None:
    configuration = load({})
    assert configuration.settings.address == "127.0.0.1:50551"
    assert set(configuration.sources.values()) == {"default"}
    assert configuration.warnings == []


def test_a_flag_wins_over_the_environment_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "workerqueue.toml"
    config.write_text(
        'processes = 2\nlog_level = "debug"\ndrain_seconds = 1.5\nreflection = false\n'
    )
    monkeypatch.setenv("WORKERQUEUE_PROCESSES", "3")
    monkeypatch.setenv("WORKERQUEUE_LOG_LEVEL", "warning")
    configuration = load({"processes": "4", "log_level": None}, config)
    assert configuration.settings.processes == 4
    assert configuration.settings.log_level == "warning"
    assert configuration.settings.drain_seconds == 1.5
    assert configuration.settings.reflection is False
    assert configuration.sources["processes"] == "--processes"
    assert configuration.sources["log_level"] == "WORKERQUEUE_LOG_LEVEL"
    assert configuration.sources["drain_seconds"] == f"file {config}"
    assert configuration.sources["log_format"] == "default"


def test_the_environment_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "workerqueue.toml"
    config.write_text("processes = 2\n")
    monkeypatch.setenv("WORKERQUEUE_CONFIG", str(config))
    assert load({}).settings.processes == 2


def test_paths_in_a_file_are_meant_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "jobs.binpb").touch()
    config = tmp_path / "workerqueue.toml"
    config.write_text('data_dir = "data"\ndescriptors = ["jobs.binpb"]\nport_file = "/tmp/port"\n')
    settings = load({}, config).settings
    assert settings.data_dir == tmp_path / "data"
    assert settings.descriptors == (tmp_path / "jobs.binpb",)
    assert settings.port_file == Path("/tmp/port")


def test_several_files_stand_in_one_variable_as_in_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / "a.binpb", tmp_path / "b.binpb"]
    for file in files:
        file.touch()
    monkeypatch.setenv("WORKERQUEUE_DESCRIPTORS", f"{files[0]}:{files[1]}")
    assert load({}).settings.descriptors == tuple(files)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("address", "50551", "must be host:port"),
        ("address", "::1:50551", "needs brackets"),
        ("address", "localhost:65536", "must be host:port"),
        ("processes", "0", "greater than or equal to 1"),
        ("processes", "many", "valid integer"),
        ("drain_seconds", "-1", "greater than or equal to 0"),
        ("drain_seconds", "nan", ""),
        ("reflection", "perhaps", "valid boolean"),
        ("log_level", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("descriptors", "/nowhere/jobs.binpb", "there is no file /nowhere/jobs.binpb"),
        ("port_file", "/nowhere/port", "there is no folder /nowhere"),
        ("dsn", "me at home", "must be a PostgreSQL connection string"),
        ("listen_dsn", "dbname=x", "only together with dsn"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_its_source_and_the_reason(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(variable_of(name), value)
    (problem,) = problems({})
    assert problem.startswith(f"{name}: ")
    assert reason in problem
    assert variable_of(name) in problem


def test_every_wrong_setting_is_told_at_once() -> None:
    told = problems({"processes": "x", "log_level": "loud"})
    assert [problem.partition(":")[0] for problem in told] == ["processes", "log_level"]
    assert "(--processes = x)" in told[0]


def test_an_unknown_name_in_a_file_is_refused_with_the_nearest(tmp_path: Path) -> None:
    config = tmp_path / "workerqueue.toml"
    config.write_text("proceses = 2\n")
    (problem,) = problems({}, config)
    assert "proceses: no such setting" in problem
    assert "did you mean processes?" in problem


def test_a_file_that_is_no_toml_or_not_there_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "workerqueue.toml"
    assert f"cannot read the file {config}" in problems({}, config)[0]
    config.write_text("processes: 2\n")
    assert "is not TOML" in problems({}, config)[0]
    config.write_bytes(b"\xff\xfe")
    assert "is not TOML" in problems({}, config)[0]


def test_a_misspelt_variable_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERQUEUE_LISTN_DSN", "dbname=x")
    (warning,) = load({}).warnings
    assert "WORKERQUEUE_LISTN_DSN" in warning
    assert "did you mean WORKERQUEUE_LISTEN_DSN?" in warning


def test_variables_of_clients_and_of_kubernetes_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("TOKEN", "CACERT", "OUTPUT", "PORT", "SERVICE_HOST", "PORT_50551_TCP_ADDR"):
        monkeypatch.setenv(f"WORKERQUEUE_{name}", "tcp://10.0.0.1:50551")
    assert load({}).warnings == []


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://me:{CANARY}@db/queue",
        f"postgresql://db/queue?user=me&password={CANARY}",
        f"host=db user=me password='{CANARY}'",
        f"host=db sslpassword={CANARY}",
    ],
)
def test_a_password_is_never_shown(dsn: str) -> None:
    configuration = load({"dsn": dsn})
    assert configuration.settings.dsn == dsn
    assert "***" in shown(configuration)["dsn"]
    assert "host=db" in shown(configuration)["dsn"]
    assert CANARY not in str(shown(configuration))


@pytest.mark.parametrize(
    "dsn", [f"postgresql:/me:{CANARY}@db", f"pasword={CANARY}", f"me:{CANARY}@db/queue"]
)
def test_a_wrong_dsn_is_not_repeated(dsn: str) -> None:
    assert CANARY not in str(problems({"dsn": dsn}))
    assert CANARY not in mask_dsn(dsn)


def test_every_setting_has_a_flag_a_variable_and_a_row_of_its_own() -> None:
    table = settings_table()
    names = list(Settings.model_fields)
    assert len({flag_of(name) for name in names}) == len(names)
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert f"| `{name}` | `{flag_of(name)}" in table
        assert variable_of(name) in table


def test_what_may_hold_a_password_is_marked_as_secret() -> None:
    assert {name for name in Settings.model_fields if is_secret(name)} == {
        name for name in Settings.model_fields if "dsn" in name
    }
