"""What is needed to send figures out, and how processes share it."""

from __future__ import annotations

import importlib.util

import pytest

from workerqueue_server.app.configuration import SettingsError, load
from workerqueue_server.app.processes import settings_of


def test_each_process_takes_the_next_port() -> None:
    settings = load({"prometheus_address": "127.0.0.1:9464", "processes": 3}).settings
    addresses = [settings_of(settings, number).prometheus_address for number in range(3)]
    assert addresses == ["127.0.0.1:9464", "127.0.0.1:9465", "127.0.0.1:9466"]
    free = load({"prometheus_address": "127.0.0.1:0"}).settings
    assert settings_of(free, 1).prometheus_address == "127.0.0.1:0"


def test_a_setting_that_needs_a_missing_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SettingsError) as caught:
        load({"prometheus_address": "127.0.0.1:9464"})
    (problem,) = caught.value.problems
    assert problem.startswith("prometheus_address: needs the extra otel: pip install 'workerqueue[")


def test_an_address_without_a_port_is_refused() -> None:
    with pytest.raises(SettingsError, match="prometheus_address: must be host:port"):
        load({"prometheus_address": "9464"})
