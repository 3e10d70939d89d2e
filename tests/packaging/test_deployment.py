"""What `deploy/` and the Dockerfile say fits the schemas, the server's settings, and itself."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.packaging.conftest import ROOT, run
from workerqueue_server.app.settings import PREFIX, Settings

_DEPLOY = ROOT / "deploy"
_MANIFESTS = _DEPLOY / "kubernetes"
# No manifests of the cluster's: they are read by kustomize and by a chart.
_OTHERS = {"kustomization.yaml", "prometheus-adapter.yaml"}
# What clients read.
_OF_CLIENTS = {"WORKERQUEUE_ADDRESS", "WORKERQUEUE_TOKEN"}
_DOCKERFILE = (ROOT / "Dockerfile").read_text()


def _tool(name: str) -> Path:
    return Path(sys.executable).with_name(name)


def _files() -> list[Path]:
    return sorted(file for file in _MANIFESTS.glob("*.yaml") if file.name not in _OTHERS)


def _objects() -> list[dict[str, Any]]:
    return [made for file in _files() for made in yaml.safe_load_all(file.read_text())]


def _the(kind: str, name: str) -> dict[str, Any]:
    (found,) = (x for x in _objects() if (x["kind"], x["metadata"]["name"]) == (kind, name))
    return found


def _pod(deployment: str) -> dict[str, Any]:
    pod: dict[str, Any] = _the("Deployment", deployment)["spec"]["template"]["spec"]
    return pod


def _environment(pod: dict[str, Any]) -> dict[str, str]:
    return {x["name"]: x.get("value", "") for x in pod["containers"][0]["env"]}


def test_manifests_fit_the_schemas_of_kubernetes() -> None:
    # The schemas of the oldest version that has all that is used, and of the newest at hand.
    for version in ("1.30", "1.34"):
        command = (_tool("kubernetes-validate"), "--strict", "--kubernetes-version", version)
        run(*command, *_files(), cwd=ROOT)


def test_a_wrong_manifest_does_not_fit(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((_MANIFESTS / "service.yaml").read_text().replace("clusterIP", "clusterIp"))
    command = (_tool("kubernetes-validate"), "--strict", "--kubernetes-version", "1.34")

    assert run(*command, wrong, cwd=ROOT, check=False).returncode != 0


def test_the_compose_file_fits_the_schema_of_compose() -> None:
    command = (_tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec")
    run(*command, _DEPLOY / "compose.yaml", cwd=ROOT)


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    assert run(_tool("hadolint"), "Dockerfile", cwd=ROOT).stdout == ""


def test_kustomize_applies_every_manifest() -> None:
    listed = yaml.safe_load((_MANIFESTS / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == [file.name for file in _files()]


def test_only_settings_that_exist_are_set() -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | _OF_CLIENTS
    written = {
        name
        for file in [ROOT / "Dockerfile", *_DEPLOY.rglob("*")]
        if file.is_file()
        for name in re.findall(rf"\b{PREFIX}[A-Z_]+", file.read_text())
    }
    assert written
    assert written <= known


def test_selectors_select() -> None:
    labels = _the("Deployment", "workerqueue")["spec"]["template"]["metadata"]["labels"]
    for selector in (
        _the("Deployment", "workerqueue")["spec"]["selector"]["matchLabels"],
        _the("Service", "workerqueue")["spec"]["selector"],
        _the("PodDisruptionBudget", "workerqueue")["spec"]["selector"]["matchLabels"],
        _the("NetworkPolicy", "workerqueue")["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    for scaler in (x for x in _objects() if x["kind"] == "HorizontalPodAutoscaler"):
        assert _the("Deployment", scaler["spec"]["scaleTargetRef"]["name"])


def test_the_ports_are_the_servers() -> None:
    (image_port,) = re.findall(r"^EXPOSE (\d+)$", _DOCKERFILE, re.MULTILINE)
    pod = _pod("workerqueue")
    ports = {x["name"]: x["containerPort"] for x in pod["containers"][0]["ports"]}
    metrics = _environment(pod)["WORKERQUEUE_PROMETHEUS_ADDRESS"].rpartition(":")[2]

    assert ports == {"grpc": int(image_port), "metrics": int(metrics)}
    assert pod["containers"][0]["readinessProbe"]["grpc"]["port"] == ports["grpc"]
    (service,) = _the("Service", "workerqueue")["spec"]["ports"]
    assert (service["port"], service["targetPort"]) == (ports["grpc"], "grpc")
    assert _environment(_pod("email-worker"))["WORKERQUEUE_ADDRESS"].endswith(f":{image_port}")


def test_a_drain_ends_before_the_kill() -> None:
    pod = _pod("workerqueue")
    before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = float(_environment(pod)["WORKERQUEUE_DRAIN_SECONDS"])
    assert pod["terminationGracePeriodSeconds"] >= before + drain + 10

    server = yaml.safe_load((_DEPLOY / "compose.yaml").read_text())["services"]["workerqueue"]
    drain = float(server["environment"]["WORKERQUEUE_DRAIN_SECONDS"])
    assert float(server["stop_grace_period"].removesuffix("s")) >= drain + 10


def test_the_image_and_the_pod_run_as_the_same_user_and_not_as_root() -> None:
    (user,) = re.findall(r"^USER (\d+)$", _DOCKERFILE, re.MULTILINE)
    assert int(user) > 0
    assert f"--uid {user} " in _DOCKERFILE
    assert _pod("workerqueue")["securityContext"]["runAsUser"] == int(user)


@pytest.mark.parametrize("image", ["postgres", "python"])
def test_bases_are_pinned(image: str) -> None:
    text = _DOCKERFILE + (_DEPLOY / "compose.yaml").read_text()
    versions = re.findall(rf"(?:image: |BASE=){image}:(\S+)", text)
    assert versions
    assert all(re.match(r"\d+\.\d+", version) for version in versions)


def test_workers_are_scaled_by_a_figure_that_the_server_tells() -> None:
    rules = yaml.safe_load((_MANIFESTS / "prometheus-adapter.yaml").read_text())["rules"]
    (rule,) = rules["external"]
    asked = _the("HorizontalPodAutoscaler", "email-worker")["spec"]["metrics"][0]["external"]
    (series,) = re.findall(r'__name__="(\w+)"', rule["seriesQuery"])

    assert rule["name"]["as"] == asked["metric"]["name"]
    assert f"`{series}`" in (ROOT / "docs" / "observability.md").read_text()
